"""The declared contracts of Ragas' metrics: the collections of 0.4, and the classic ones under `classic.`."""

from __future__ import annotations

from dataclasses import replace

from mlflow_assay.contracts import CategoricalValue, NumericValue
from mlflow_assay.judges.third_party.metric import Metric

__all__ = ["METRICS", "UNSUPPORTED"]

_COSINE = NumericValue(low=-1.0, high=1.0, threshold=0.5)
_LOWER = NumericValue(low=0.0, high=1.0, threshold=0.5, better="lower")
_FIVE = NumericValue(low=1.0, high=5.0, threshold=3.0)
_BINARY = NumericValue(low=0.0, high=1.0, threshold=1.0)
_EMBED = ("embeddings",)
_RAG = ("input", "output", "retrieved")
_TOPICS = "expectations.reference_topics"
_RUBRICS = "expectations.rubrics"

_RELEVANCY = "Does the answer address the question?"
_CORRECT = "Is the answer factually and semantically the same as the reference?"
_PRECISE = "Are the passages that matter ranked first?"
_RECALL = "Does what was retrieved cover the reference answer?"
_FAITHFUL = "Are the answer's claims supported by what was retrieved?"
_NOISE = "How many of the answer's claims are wrong because of what was retrieved?"
_ENTITIES = "Are the reference's entities in what was retrieved?"
_RELEVANT = "Is what was retrieved relevant to the question?"
_GROUNDED = "Is the answer grounded in what was retrieved?"
_ACCURATE = "Does the answer agree with the reference?"
_FACTS = "How well do the claims of answer and reference overlap?"
_GOAL = "Did the agent reach the goal the reference states?"
_GOAL_INFERRED = "Did the agent reach the goal the user seems to have had?"
_TOOLS = "Were the expected tools called, in order, with the expected arguments?"
_TOOLS_F1 = "How well do the tools called and the tools expected overlap?"
_TOPIC = "Did the agent keep to the topics it may speak about?"
_SQL = "Do the two SQL queries mean the same?"
_SUMMARY = "Does the summary hold what matters of the text?"
_RUBRIC = "What grade does the answer get by the given rubric?"
_SIMILAR = "Do answer and reference mean the same, by their embeddings?"

_NONE_NEEDED = "No goal needs to be expected; it is inferred."
_NOTE_TOPICS = "expectations.reference_topics: a list of topics."
_NOTE_RUBRICS = "expectations.rubrics: score1_description to score5_description."
_NOTE_LOWER = "Lower is better."
_NOTE_IMAGES = "A passage that is an image is shown as one; the judge model must take images."
_NOTE_ARGS = "An expected call without arguments matches only a call without arguments."

_COLLECTIONS = (
    Metric("AgentGoalAccuracy", _GOAL, ("input", "output", "expected_output"), "2", _BINARY,
           notes="Another name of AgentGoalAccuracyWithReference."),
    Metric("AgentGoalAccuracyWithReference", _GOAL, ("input", "output", "expected_output"), "2", _BINARY),
    Metric("AgentGoalAccuracyWithoutReference", _GOAL_INFERRED, ("input", "output"), "2", _BINARY, notes=_NONE_NEEDED),
    Metric("AnswerAccuracy", _ACCURATE, ("input", "output", "expected_output"),
           "2, up to 10 where ratings cannot be read"),
    Metric("AnswerCorrectness", _CORRECT, ("input", "output", "expected_output"), "3",
           NumericValue(low=-0.25, high=1.0, threshold=0.5), embeddings=True, required=_EMBED),
    Metric("AnswerRelevancy", _RELEVANCY, ("input", "output"), "3", _COSINE, embeddings=True, required=_EMBED,
           notes="As many calls as `strictness`."),
    Metric("BleuScore", "How many words and phrases of the reference are in the answer (BLEU)?",
           ("output", "expected_output"), "0"),
    Metric("CHRFScore", "How many character n-grams of the reference are in the answer (chrF)?",
           ("output", "expected_output"), "0"),
    Metric("ContextEntityRecall", _ENTITIES, ("retrieved", "expected_output"), "2"),
    Metric("ContextPrecision", _PRECISE, ("input", "retrieved", "expected_output"), "1 per passage"),
    Metric("ContextPrecisionWithReference", _PRECISE, ("input", "retrieved", "expected_output"), "1 per passage"),
    Metric("ContextPrecisionWithoutReference", _PRECISE, _RAG, "1 per passage"),
    Metric("ContextRecall", _RECALL, ("input", "retrieved", "expected_output"), "1"),
    Metric("ContextRelevance", _RELEVANT, ("input", "retrieved"), "2"),
    Metric("ContextUtilization", _PRECISE, _RAG, "1 per passage"),
    Metric("DomainSpecificRubrics", _RUBRIC, ("input", "output"), "1", _FIVE,
           notes="Parameters: rubrics (score1_description to score5_description), with_reference."),
    Metric("ExactMatch", "Is the answer exactly the reference?", ("output", "expected_output"), "0", _BINARY),
    Metric("FactualCorrectness", _FACTS, ("output", "expected_output"), "4", notes="2 to 4 calls by `mode`."),
    Metric("Faithfulness", _FAITHFUL, _RAG, "2"),
    Metric("InstanceSpecificRubrics", _RUBRIC, ("input", "output", _RUBRICS), "1", _FIVE, notes=_NOTE_RUBRICS),
    Metric("MultiModalFaithfulness", "Are the answer's claims supported by the texts and images retrieved?",
           ("output", "retrieved"), "1", _BINARY, notes=_NOTE_IMAGES),
    Metric("MultiModalRelevance", "Does the answer go with the texts and images retrieved for the request?", _RAG, "1",
           _BINARY, notes=_NOTE_IMAGES),
    Metric("NoiseSensitivity", _NOISE, (*_RAG, "expected_output"), "3 + 2 per passage", _LOWER,
           notes=_NOTE_LOWER),
    Metric("NonLLMStringSimilarity", "How alike are answer and reference as strings?", ("output", "expected_output"),
           "0", notes="Parameter: distance_measure (levenshtein, hamming, jaro, jaro_winkler)."),
    Metric("QuotedSpansAlignment", "Are the answer's quotations found in what was retrieved?", ("output", "retrieved"),
           "0", notes="An answer without quotations gets 1."),
    Metric("ResponseGroundedness", _GROUNDED, ("output", "retrieved"), "2"),
    Metric("RougeScore", "How much of the reference's wording is in the answer (ROUGE)?",
           ("output", "expected_output"), "0"),
    Metric("RubricsScoreWithReference", _RUBRIC, ("input", "output", "expected_output"), "1", _FIVE,
           notes="Parameter: rubrics."),
    Metric("RubricsScoreWithoutReference", _RUBRIC, ("input", "output"), "1", _FIVE, notes="Parameter: rubrics."),
    Metric("SQLSemanticEquivalence", _SQL, ("output", "expected_output"), "1", _BINARY,
           notes="The schema is read from expectations.context where it is given."),
    Metric("SemanticSimilarity", _SIMILAR, ("output", "expected_output"), "0", _COSINE, embeddings=True,
           required=_EMBED),
    Metric("StringPresence", "Is the reference found in the answer?", ("output", "expected_output"), "0", _BINARY),
    Metric("SummaryScore", _SUMMARY, ("output", "context"), "3", notes="expectations.context: the text summarised."),
    Metric("ToolCallAccuracy", _TOOLS, ("spans", "input", "expected_tools"), "0", notes=_NOTE_ARGS),
    Metric("ToolCallF1", _TOOLS_F1, ("spans", "input", "expected_tools"), "0", notes=_NOTE_ARGS),
    Metric("TopicAdherence", _TOPIC, ("input", "output", _TOPICS), "2 + 1 per topic", notes=_NOTE_TOPICS),
    Metric("DiscreteMetric", "What does the given prompt say of the run, in one of the given words?", (), "1",
           CategoricalValue(options=("pass", "fail"), good=("pass",)), required=("prompt",),
           notes="The prompt names what it reads: {user_input}, {response}, {reference}, {retrieved_contexts}, "
           "{reference_contexts}. The words are the definition's options."),
    Metric("NumericMetric", "What number does the given prompt give the run?", (), "1", required=("prompt",),
           notes="As DiscreteMetric; the number is asked for between 0 and 1."),
)  # fmt: skip

_SESSIONS = {
    "AgentGoalAccuracyWithReference": ("turns", "expected_output"),
    "AgentGoalAccuracyWithoutReference": ("turns",),
    "ToolCallAccuracy": ("turns", "expected_tools"),
    "ToolCallF1": ("turns", "expected_tools"),
    "TopicAdherence": ("turns", _TOPICS),
}

_CLASSIC = (
    Metric("AgentGoalAccuracyWithReference", _GOAL, ("input", "output", "expected_output"), "2", _BINARY),
    Metric("AgentGoalAccuracyWithoutReference", _GOAL_INFERRED, ("input", "output"), "2", _BINARY, notes=_NONE_NEEDED),
    Metric("AnswerAccuracy", _ACCURATE, ("input", "output", "expected_output"),
           "2, up to 10 where ratings cannot be read"),
    Metric("AnswerCorrectness", _CORRECT, ("input", "output", "expected_output"), "3",
           NumericValue(low=-0.25, high=1.0, threshold=0.5), embeddings=True, required=_EMBED),
    Metric("AnswerRelevancy", _RELEVANCY, ("input", "output"), "1", _COSINE, embeddings=True, required=_EMBED,
           notes="Another name of ResponseRelevancy."),
    Metric("AnswerSimilarity", _SIMILAR, ("output", "expected_output"), "0", _COSINE, embeddings=True,
           required=_EMBED, notes="Another name of SemanticSimilarity."),
    Metric("AspectCritic", "Does the run meet the given definition?", ("input", "output"), "1", _BINARY,
           required=("definition",)),
    Metric("BleuScore", "How many words and phrases of the reference are in the answer (BLEU)?",
           ("output", "expected_output"), "0"),
    Metric("ChrfScore", "How many character n-grams of the reference are in the answer (chrF)?",
           ("output", "expected_output"), "0"),
    Metric("ContextEntityRecall", _ENTITIES, ("retrieved", "expected_output"), "2"),
    Metric("ContextPrecision", _PRECISE, ("input", "retrieved", "expected_output"), "1 per passage",
           notes="Another name of LLMContextPrecisionWithReference."),
    Metric("ContextRecall", _RECALL, ("input", "retrieved", "expected_output"), "1",
           notes="Another name of LLMContextRecall."),
    Metric("ContextRelevance", _RELEVANT, ("input", "retrieved"), "2"),
    Metric("ContextUtilization", _PRECISE, _RAG, "1 per passage",
           notes="Another name of LLMContextPrecisionWithoutReference."),
    Metric("ExactMatch", "Is the answer exactly the reference?", ("output", "expected_output"), "0", _BINARY),
    Metric("FactualCorrectness", _FACTS, ("output", "expected_output"), "4", notes="2 to 4 calls by `mode`."),
    Metric("Faithfulness", _FAITHFUL, _RAG, "2"),
    Metric("IDBasedContextPrecision", "How many of the passages retrieved are among the expected ones, by id?",
           ("retrieved", "expectations.reference_context_ids"), "0",
           notes="A passage's id is `doc_uri` or `id` in its metadata."),
    Metric("IDBasedContextRecall", "How many of the expected passages were retrieved, by id?",
           ("retrieved", "expectations.reference_context_ids"), "0",
           notes="A passage's id is `doc_uri` or `id` in its metadata."),
    Metric("InstanceRubrics", _RUBRIC, ("input", "output", _RUBRICS), "1", _FIVE, notes=_NOTE_RUBRICS),
    Metric("LLMContextPrecisionWithReference", _PRECISE, ("input", "retrieved", "expected_output"), "1 per passage"),
    Metric("LLMContextPrecisionWithoutReference", _PRECISE, _RAG, "1 per passage"),
    Metric("LLMContextRecall", _RECALL, ("input", "retrieved", "expected_output"), "1"),
    Metric("LLMSQLEquivalence", _SQL, ("output", "expected_output", "context"), "1", _BINARY,
           notes="expectations.context: the schema of the tables."),
    Metric("NoiseSensitivity", _NOISE, (*_RAG, "expected_output"), "3 + 2 per passage", _LOWER,
           notes=_NOTE_LOWER),
    Metric("NonLLMContextPrecisionWithReference", _PRECISE, ("retrieved", "context"), "0",
           notes="By string distance to expectations.context."),
    Metric("NonLLMContextRecall", "Were the expected passages retrieved, by string distance?",
           ("retrieved", "context"), "0"),
    Metric("NonLLMStringSimilarity", "How alike are answer and reference as strings?", ("output", "expected_output"),
           "0"),
    Metric("ResponseGroundedness", _GROUNDED, ("output", "retrieved"), "2"),
    Metric("ResponseRelevancy", _RELEVANCY, ("input", "output"), "1", _COSINE, embeddings=True, required=_EMBED),
    Metric("RougeScore", "How much of the reference's wording is in the answer (ROUGE)?",
           ("output", "expected_output"), "0"),
    Metric("RubricsScore", _RUBRIC, ("input", "output"), "1", _FIVE, notes="Parameter: rubrics."),
    Metric("SemanticSimilarity", _SIMILAR, ("output", "expected_output"), "0", _COSINE, embeddings=True,
           required=_EMBED),
    Metric("SimpleCriteriaScore", "What score does the run get by the given definition?", ("input", "output"), "1",
           NumericValue(low=0.0, high=5.0, threshold=3.0), required=("definition",),
           notes="The definition given must ask for 0 to 5."),
    Metric("StringPresence", "Is the reference found in the answer?", ("output", "expected_output"), "0", _BINARY),
    Metric("SummarizationScore", _SUMMARY, ("output", "context"), "3",
           notes="expectations.context: the text summarised."),
    Metric("ToolCallAccuracy", _TOOLS, ("spans", "input", "expected_tools"), "0", notes=_NOTE_ARGS),
    Metric("ToolCallF1", _TOOLS_F1, ("spans", "input", "expected_tools"), "0", notes=_NOTE_ARGS),
    Metric("TopicAdherenceScore", _TOPIC, ("input", "output", _TOPICS), "2 + 1 per topic", notes=_NOTE_TOPICS),
)  # fmt: skip


def _all() -> dict[str, Metric]:
    found = {m.name: replace(m, path=f"collections.{m.name}") for m in _COLLECTIONS}
    for own in ("DiscreteMetric", "NumericMetric"):
        found[own] = replace(found[own], path=own)
    for name, reads in _SESSIONS.items():
        about = f"{name} over the turns of a session."
        found[f"session.{name}"] = replace(
            found[name], name=f"session.{name}", reads=reads, scope="session",
            notes=" ".join(filter(None, (about, found[name].notes))),
        )  # fmt: skip
    for m in _CLASSIC:
        found[f"classic.{m.name}"] = replace(m, name=f"classic.{m.name}", path=m.name)
    return found


METRICS = _all()

_IMAGES = "the metric of that name without `classic.` asks the same; this one would read files and addresses from here"
_DATACOMPY = "the current datacompy (1.x) no longer has the class Ragas 0.4 imports"
UNSUPPORTED = {
    "DataCompyScore": _DATACOMPY,
    "RankingMetric": "its answer is an order, not a verdict",
    "classic.DataCompyScore": _DATACOMPY,
    "classic.FaithfulnesswithHHEM": "it downloads a model that runs its own code (transformers, torch)",
    "classic.MultiModalFaithfulness": _IMAGES,
    "classic.MultiModalRelevance": _IMAGES,
}
