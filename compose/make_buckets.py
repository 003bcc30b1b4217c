"""Makes the buckets named on the command line, in the store at S3_ENDPOINT; those that exist stay as they are."""

from __future__ import annotations

import os
import sys

import boto3
from botocore.exceptions import ClientError

store = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
for bucket in sys.argv[1:]:
    try:
        store.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
    print(bucket)
