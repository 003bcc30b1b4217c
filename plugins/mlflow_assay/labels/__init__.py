"""Reading verdicts and labels off traces, and pairing them: what the report and the trust commands both stand on.

`rows` is one light row a trace, `verdicts` what the judges said, `people` what people (or recorded ground truth) said,
`pairs` both beside each other as aligned arrays, `kpi` the corrected rate that follows.
"""
