"""Our judges in other libraries' test suites: as a DeepEval metric, as a Ragas metric.

A test file for DeepEval, run by `pytest` or `deepeval test run`:

```python
from deepeval import assert_test
from deepeval.test_case import LLMTestCase

from mlflow_assay.interop.deepeval_metric import AssayMetric


def test_the_agent_answers_the_question():
    case = LLMTestCase(input="When does my order arrive?", actual_output="Tomorrow before noon.")
    assert_test(case, [AssayMetric("answer_relevance")], run_async=False)
```

The judge model is the environment's (`ASSAY_JUDGE_MODEL`, `ASSAY_JUDGE_BASE_URL`) or is given:
`AssayMetric("answer_relevance", judge_model=ModelSettings("openai:/gpt-4.1-mini"))`. With Ragas:

```python
from mlflow_assay.interop.ragas_metric import AssayMetric

result = AssayMetric("answer_relevance").score(user_input="When does it arrive?", response="Tomorrow.")
assert result.value >= 0.5, result.reason
```

Both libraries want a number that is better when higher: a judge's number is put on 0 to 1 that way round, its pass rule
at `threshold`; other values are 1 where they pass and 0 where they fail, with the value itself in the reason. A verdict
that is unscored is no 0: DeepEval gets the error (its own for a missing field), Ragas its NaN.
"""
