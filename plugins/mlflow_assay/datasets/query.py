"""SQL over versions of datasets, by DuckDB; rows are read from the store as the query needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["query"]


def query(sql: str, tables: Mapping[str, Dataset]) -> pa.Table:
    """Run one SQL query over datasets.

    Args:
        sql: in DuckDB's dialect; JSON cells by path, such as `inputs->>'$.request'`. It can read the tables alone: no
            file and no address.
        tables: table name to dataset.

    Raises:
        ConfigError: the query cannot be run (DuckDB's message), or DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError(
            "SQL over datasets needs DuckDB, which is not installed.", fix="pip install 'mlflow-assay[datasets]'"
        ) from error
    with duckdb.connect(":memory:") as connection:
        for name, dataset in tables.items():
            connection.register(name, dataset.store.arrow(dataset.manifest))
        connection.execute("SET enable_external_access = false")
        try:
            found = connection.sql(sql)
            if found is not None:
                return found.to_arrow_table()
        except duckdb.Error as error:
            said = " ".join(str(error).split("\n\n")[0].split())
            raise ConfigError(f"The query cannot be run: {said}", valid=f"tables {', '.join(tables)}") from error
    raise ConfigError("The query gives no rows back.", found=sql, valid="SELECT …, DESCRIBE …, SUMMARIZE …")
