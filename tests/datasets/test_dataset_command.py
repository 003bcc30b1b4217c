"""`assay dataset` from end to end: from traces to a version, looked at, changed, exchanged."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import COMMANDS, assay
from mlflow_assay.cli.dataset import COMMANDS as OWN
from mlflow_assay.errors import AssayError, ConfigError, InputError, StoreError

TOPICS = ("parcel lost abroad", "invoice far too high", "router blinks red", "contract of my mother", "voicemail full")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(assay, ["dataset", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def run_json(*arguments: str) -> dict:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def traces(judged):
    for i in range(20):
        judged(
            f"{TOPICS[i % 5]} {'abcd'[i // 5] * 8}, write to anna{i}@example.com",
            verdict=i % 4 != 0 or None if i == 19 else i % 4 == 0,
            session=f"s{i}",
            tags={"domain": "post" if i % 5 == 0 else "phones"},
            expectations={"route": "billing"} if i % 2 else None,
        )


def test_the_command_is_listed_and_every_subcommand_teaches_with_an_example():
    assert "dataset" in COMMANDS
    for name in OWN:
        text = run(name, "--help")
        assert f"assay dataset {name}" in text, name


def test_failed_traces_become_a_version_that_can_be_looked_at_and_changed(traces):
    made = run_json(
        "build", "misrouted", "-e", "test", "--where", "judge request_resolved failed", "--slice", "tag:domain",
        "--owner", "qa", "--licence", "CC0-1.0", "--retention", "90d", "--alias", "golden",
    )  # fmt: skip
    assert (made["version"], made["about"]["pii"], made["about"]["owner"]) == (1, "redacted", "qa")
    assert made["rows"] == 14 and sum(made["splits"].values()) == 14
    assert made["about"]["redaction"]["replaced"]["email"] == 14
    text = run("show", "misrouted@golden", "--rows", "2", "--verify")
    assert "14 rows" in text and "CC0-1.0" in text and "example.com" not in text
    assert "All files are as they were written" in text
    assert "misrouted" in run("list") and "golden=v1" in run("list")
    assert run_json("list")["datasets"][0]["aliases"] == {"golden": 1}
    assert "@golden is v1" in run("tag", "misrouted", "reviewed=ann")
    assert run_json("tag", "misrouted", "--drop-alias", "golden", "--history")["aliases"] == {}
    assert run_json("show", "misrouted")["version_tags"] == {"reviewed": "ann"}
    assert run_json("sweep", "misrouted") == {"removed": []}


def test_append_adds_what_is_new_beside_what_is_there(traces, judged):
    run("build", "d", "-e", "test", "--where", "judge request_resolved failed")
    judged("a wholly different matter", verdict=False, session="s1")
    done = run_json("append", "d", "-e", "test", "--where", "judge request_resolved failed")
    assert (done["version"], done["parent"], done["rows"]) == (2, 1, 15)
    assert done["shaped"]["there_already"] == 14
    found = run_json("diff", "d@v1", "d")
    assert (found["added"], found["removed"], found["changed"]) == (1, 0, 0)
    text = run("diff", "d@v1", "d")
    assert "1 added" in text and "wholly different" in text


def test_rows_that_lack_what_was_asked_for_are_counted(traces):
    text = run("build", "d", "-e", "test", "--slice", "tag:nowhere", "--dry-run")
    assert "20 traces without what --slice names" in text and "10 traces of which nobody said" in text
    assert "--slice names" not in run("build", "d", "-e", "test", "--slice", "tag:domain", "--dry-run")


def test_splits_are_told_in_their_order_however_often_they_are_read(traces):
    first = run("build", "d", "-e", "test")
    assert first.splitlines()[0].startswith("d@v1: 20 rows (12 train, 4 validation, 4 test)")
    assert run("build", "d", "-e", "test").splitlines()[0] == first.splitlines()[0]
    assert "train/val/test" in run("list") and "12/4/4" in run("list")


def test_a_wrong_store_or_retention_is_said_before_traces_are_read(store):
    for wrong, told in ((("--store", "ftp://x/y"), "ftp"), (("--retention", "90x"), "retention '90x'")):
        with pytest.raises(AssayError, match=told):
            run("build", "d", "-e", "there is no such experiment", *wrong)


def test_a_dry_run_stores_nothing(traces):
    text = run("build", "d", "-e", "test", "--dry-run", "--redaction", "none")
    assert "20 rows of 20 traces" in text and "Nothing was stored" in text and "not looked for" in text
    assert run_json("build", "d", "-e", "test", "--dry-run")["query"]["traces_selected"] == 20
    assert "No datasets" in run("list")


def test_sql_over_versions(traces):
    pytest.importorskip("duckdb", reason="pip install 'mlflow-assay[datasets]'")
    run("build", "d", "-e", "test", "--slice", "tag:domain", "--split", "none")
    text = run("query", "d", "SELECT slice, count(*) AS n FROM dataset GROUP BY 1 ORDER BY 1")
    assert "phones" in text and "16" in text
    lines = run("query", "d", "SELECT inputs->>'$.request' AS q FROM dataset LIMIT 2", "--json").splitlines()
    assert all("[EMAIL]" in json.loads(line)["q"] for line in lines)
    both = run("query", "d", "SELECT count(*) AS n FROM dataset JOIN old USING (id)", "--with", "old=d@v1", "--json")
    assert json.loads(both) == {"n": 20}
    with pytest.raises(ConfigError, match=r"query cannot be run.*tables dataset"):
        run("query", "d", "SELECT * FROM nothing")


def test_out_and_in_again_is_the_same_version(traces, tmp_path):
    run("build", "d", "-e", "test")
    digest = run_json("show", "d")["digest"]
    for name in ("rows.jsonl", "rows.csv"):
        assert run_json("export", "d", str(tmp_path / name))["lost"] == {}
        assert run_json("import", f"again_{name[5:]}", str(tmp_path / name))["digest"] == digest
    part = run("export", "d@latest", str(tmp_path / "test.jsonl"), "--split", "test")
    assert "d@v1 written to" in part
    with pytest.raises(ConfigError, match="--format is needed"):
        run("export", "d", str(tmp_path / "rows.bin"))


def test_a_table_of_questions_is_imported_and_reshaped(store, tmp_path):
    path = tmp_path / "questions.csv"
    lines = [f"{TOPICS[i % 5]} {'wxyz'[i % 4] * 9},yes" for i in range(20)] * 2
    path.write_text("question,expectations.expected_response\n" + "\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match="20 rows have the id of another row"):
        run("import", "q", str(path))
    made = run_json("import", "q", str(path), "--reshape", "--owner", "me", "--split", "50/25/25")
    assert made["rows"] == 20 and set(made["splits"]) == {"train", "validation", "test"}
    assert made["about"]["query"]["shaped"]["exact_duplicates_merged"] == 20
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(InputError, match="There are no rows"):
        run("import", "e", str(empty))


def test_personal_data_in_an_imported_file_is_replaced_when_asked(store, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"inputs": {"q": "I am ann@example.com"}, "split": "test"}\n{"inputs": {"q": "hello"}}\n')
    assert run_json("import", "as_is", str(path))["about"]["redaction"] is None
    made = run_json("import", "masked", str(path), "--redaction", "built-in")
    assert made["about"]["redaction"]["replaced"] == {"email": 1} and made["splits"] == {"test": 1}
    shown = run_json("show", "masked")["rows_shown"]
    assert [row["inputs"]["q"] for row in shown] == ["I am [EMAIL]", "hello"]


def test_sync_with_mlflow_says_what_went_where(traces):
    run("build", "d", "-e", "test")
    done = run_json("sync", "d", "-e", "test")
    assert done["there"] == {"added": 20, "changed": 0, "removed": 0}
    text = run("sync", "d")
    assert "d@v1 and MLflow's dataset" in text
    assert run_json("sync", "d", "--push", "--mlflow-name", "other")["there"]["added"] == 20


def test_what_is_wrong_is_said_in_one_error(traces):
    with pytest.raises(StoreError, match=r"There is no experiment 'tset'.*test"):
        run("build", "d", "-e", "tset")
    with pytest.raises(ConfigError, match="--split '80/20' cannot be read"):
        run("build", "d", "-e", "test", "--split", "80/20")
    with pytest.raises(ConfigError, match="--input 'x' cannot be read"):
        run("build", "d", "-e", "test", "--input", "x")
    with pytest.raises(ConfigError, match="retention 'long' cannot be read"):
        run("build", "d", "-e", "test", "--retention", "long")
    with pytest.raises(StoreError, match="There is no dataset 'd'"):
        run("append", "d", "-e", "test")
    with pytest.raises(AssayError, match="cannot be called"):
        run("build", "a/b", "-e", "test")
    with pytest.raises(ConfigError, match=r"tag 'x' cannot be read"):
        run("build", "d", "-e", "test")
        run("tag", "d", "x")
