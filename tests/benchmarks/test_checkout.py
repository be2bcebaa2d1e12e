"""Tables of a commit and tables of a changed tree: only the first belong in results/."""

import subprocess

import pytest
from common import checkout, tables
from speed import report


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout of its own, with a file of code, a page, and a table in benchmarks/results."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name in ("kernel.cpp", "README.md", "benchmarks/results/speed.csv"):
        (tmp_path / name).write_text("ms,commit\n1,abc\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    monkeypatch.setattr(checkout, "RESULTS", results)
    monkeypatch.setattr(checkout, "SCRATCH", results / "scratch")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    checkout.commit.cache_clear()
    checkout.say_scratch.cache_clear()


def add(path, commit: str) -> None:
    tables.write_csv(path, ["ms", "commit"], [*tables.read_csv(path), {"ms": "2", "commit": commit}])


def commits(path) -> list[str]:
    return [row["commit"] for row in tables.read_csv(path)]


def test_a_commit_adds_rows_whatever_tables_and_pages_changed(tree, capsys):
    path = checkout.RESULTS / "speed.csv"
    name = checkout.commit()
    for _ in range(2):  # the second finds the first one's table changed
        add(path, checkout.commit())
        (tree / "README.md").write_text("changed")
        forget()
    assert commits(path) == ["abc", name, name] and "dirty" not in name
    assert not checkout.SCRATCH.exists() and not capsys.readouterr().out


def test_a_changed_tree_adds_its_rows_elsewhere_and_says_so(tree, capsys):
    path, before = checkout.RESULTS / "speed.csv", (checkout.RESULTS / "speed.csv").read_bytes()
    (tree / "kernel.cpp").write_text("faster")
    name = checkout.commit()
    assert name.endswith("-dirty")
    add(path, name)
    add(path, name)
    assert path.read_bytes() == before
    assert commits(path) == ["abc", name, name] == commits(checkout.SCRATCH / "speed.csv")
    said = capsys.readouterr().out
    assert said.count("The code differs from its commit") == 1 and str(checkout.SCRATCH) in said
    elsewhere = tree / "speed.csv"
    add(elsewhere, name)  # a folder of the user's own takes anything
    assert commits(elsewhere) == [name]


def test_what_appends_to_a_table_does_the_same(tree, monkeypatch):
    path = checkout.RESULTS / "sim_speed.csv"
    monkeypatch.setattr(report, "COLUMNS", ["ms", "commit"])
    report.append_csv(path, [{"ms": "1", "commit": "abc"}])
    before = path.read_bytes()
    (tree / "kernel.cpp").write_text("faster")
    forget()
    tables.check_table(path, report.COLUMNS)
    for _ in range(2):
        report.append_csv(path, [{"ms": "2", "commit": checkout.commit()}])
    assert path.read_bytes() == before and len(tables.read_csv(checkout.SCRATCH / "sim_speed.csv")) == 3


COLUMNS = ["ms", "commit"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n", "has other columns than this version writes \\(ms is missing\\); move it away"),
        ("ms,commit,more\n1,abc,2\n", "has other columns than this version writes \\(more\\); move it away"),
        ("commit,ms\n", "has other columns than this version writes \\(their order\\); move it away"),
        ("ms,commit\n1\n", "is damaged \\(row 1 has not 2 cells\\); move it away"),
        ("ms,commit\n1,abc\n1,2,3\n", "is damaged \\(row 2 has not 2 cells\\); move it away"),
        ("", "\\(ms is missing\\)"),
    ],
)
def test_a_table_of_another_version_is_refused(tmp_path, content, reason):
    path = tmp_path / "speed.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"speed.csv {reason}" if content else reason):
        tables.check_out(tmp_path, {"speed.csv": COLUMNS})
    path.write_text("ms,commit\n1,abc\n")
    tables.check_out(tmp_path, {"speed.csv": COLUMNS, "missing.csv": COLUMNS})
    path.write_bytes(b"ms,commit\n\xff,1\n")
    with pytest.raises(ValueError, match="is no table"):
        tables.read_csv(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=f"--runs {file} cannot be written .*; give another --runs"):
        tables.check_out(file, option="--runs")
    tables.check_out(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_outside_a_checkout_the_commit_is_unknown(tree, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(checkout, "RESULTS", tmp_path_factory.mktemp("elsewhere") / "benchmarks" / "results")
    checkout.RESULTS.mkdir(parents=True)
    assert checkout.commit() == "unknown"
    assert checkout.place(checkout.RESULTS / "a.csv") == checkout.RESULTS / "a.csv"
