"""The documentation agrees with the code: links, commands, fields, Python, and the tables of columns and records."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import clip_jax
from clip_jax.cli.config import CONFIGS
from clip_jax.cli.init import EXAMPLES
from clip_jax.cli.main import main, make_parser
from clip_jax.config import RunConfig
from clip_jax.config.io import from_dict, load
from clip_jax.config.presets import preset
from clip_jax.config.reference import groups_of
from clip_jax.config.sweep import SweepConfig
from clip_jax.sweep.search.config import SearchConfig

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "experiments/results/README.md", "benchmarks/RESULTS.md")),
]
CONFIG_OF = {"run": RunConfig, "sweep": SweepConfig, "search": SearchConfig}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
page_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def blocks(page, *languages):
    """Return code blocks of a page in these languages."""
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def prose(page):
    """Return a page without its code blocks."""
    return FENCE.sub("", page.read_text())


@cache
def anchors(page):
    """Return anchors of the headings of a page, as MkDocs and code hosts make them."""
    text = FENCE.sub("", hooks.expand(page.read_text()))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("\\", "") for title in titles)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(page):
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors(file), target


def commands(page):
    """Yield commands of the shell blocks of a page, each as a list of words, up to the first pipe."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words[: words.index("|")] if "|" in words else words


def parser_of(words):
    """Return (the parser of ``clip-jax WORDS``, the words that it takes)."""
    parser = make_parser()
    while True:
        inner = [a.choices for a in parser._actions if isinstance(a.choices, dict) and a.nargs == "A..."]
        if not inner:
            return parser, words
        if not words:
            return parser, words
        assert words[0] in inner[0], words
        parser, words = inner[0][words[0]], words[1:]


@cache
def field_names(*configs):
    """Return names of the fields of configs, by their keys in `CONFIGS`."""
    names = set()
    for config in configs:
        _, cls, prefix = CONFIGS[config]
        names |= {entry.name for group in groups_of(cls, prefix) for entry in group.entries}
    if {"sweep", "search"} & set(configs):
        names |= {f"base.{name}" for name in field_names("run")}
    return names


@page_name
def test_every_command_is_one_that_the_command_line_takes(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert not {w for w in words[1:] if "=" not in w} - targets, words
        elif words[0] == "clip-jax" and words[1:] != ["--help"]:
            parser, rest = parser_of(words[1:])
            args, extra = parser.parse_known_args(rest)
            fields = dict(item.removeprefix("--").split("=", 1) for item in extra)
            assert not set(fields) - field_names(*parser.configs) - {"model"}, words  # model: a preset as a whole
            if not parser.configs or "config" not in args:
                continue
            examples = ROOT / "clip_jax" / "cli" / "examples"
            name = EXAMPLES.get(args.config.removesuffix(".py"), (args.config, ""))[0]
            config = examples / name if (examples / name).is_file() else None
            assert config or not args.config.startswith(("sweeps/", "experiments/")), words
            if config:
                fields = {name: value for name, value in fields.items() if not name.startswith("distributed.")}
                load(CONFIG_OF[parser.configs[0]], config, fields, model_of=lambda _: preset("ViT-B/32"))


@page_name
def test_every_command_fits_the_column_of_the_site(page):
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert not [line for line in lines if len(line) > 89]


ELSEWHERE = [  # commands for a cluster or a bucket
    pytest.param(words, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, words in enumerate(commands(page))
    if words[:3] == ["clip-jax", "sweep", "run"] and any("gs://" in w or w.startswith("--engine=") for w in words)
]
HANDED_OVER = {
    "slurm": "#SBATCH --array",
    "jobset": "kind: JobSet",
    "local": "clip-jax train --config=gs://bucket/pod/runs/",
}


@pytest.mark.parametrize("words", ELSEWHERE)
def test_every_command_for_a_cluster_or_a_bucket_runs_dry(words, bucket, capsys):
    """The sweep is the quickstart's, as the data of the others is not at hand."""
    words = [w.replace("BUCKET", "bucket") for w in words if not w.startswith("--config=") and w != "--dry-run"]
    assert main([*words[1:], f"--config={ROOT / 'sweeps' / 'quickstart.py'}", "--dry-run"]) == 0, (
        capsys.readouterr().err
    )
    engine = next(w.removeprefix("--engine=") for w in words if w.startswith("--engine="))
    assert HANDED_OVER[engine] in capsys.readouterr().out


@pytest.fixture
def small_corpus(bucket, tmp_path, write_shard, jpeg):
    """Fill the bucket, and a folder, with what docs/how-to/large-corpora.md names: three shards instead of 41,408."""

    def pictures(n):
        return [jpeg((n, 12 * i, 90)) for i in range(20)]

    shards = {f"laion/0000{n}": n for n in range(3)} | {"laion-val/00000": 3}
    for name, n in shards.items():
        keys = [f"{n:04}{i:05}" for i in range(20)]
        members = {f"{key}.jpg": picture for key, picture in zip(keys, pictures(n), strict=True)}
        tar = write_shard(tmp_path / f"{name}.tar", members | {f"{key}.txt": f"picture {key}".encode() for key in keys})
        uids = [f"{n:016x}{i:016x}" for i in range(20)]
        columns = {"key": keys, "uid": uids, "similarity": [i / 20 for i in range(20)], "width": [256] * 20}
        pd.DataFrame(columns).to_parquet(tar.with_suffix(".parquet"))
    for split in ("train", "val"):
        (tmp_path / "pairs" / split).mkdir(parents=True)
        pairs = {"image": pictures(4), "caption": [f"picture {i}" for i in range(20)]}
        pd.DataFrame(pairs).to_parquet(tmp_path / "pairs" / split / "00000.parquet", row_group_size=10)
    for path in tmp_path.rglob("*.*"):
        bucket.objects[path.relative_to(tmp_path).as_posix()] = (path.read_bytes(), 1)
    np.save(tmp_path / "datacomp_medium_best.npy", np.array([(n, i) for n in range(3) for i in (1, 4, 8)], np.uint64))
    return tmp_path


SMALL = {  # words of the page's commands, and by what the test replaces them
    "BUCKET": "bucket",
    "41407": "00002",
    "$SLURM_ARRAY_TASK_ID/64": "0/1",
    "--model=ViT-B/32": "--steps=2 --batch_size=8 --data.streams=2 --data.tokenizer_train_captions=20",
    "pool-index": "laion-index",
}


@pytest.mark.thorough
def test_every_command_on_large_corpora_runs_on_a_small_one(small_corpus, monkeypatch, capsys):
    monkeypatch.chdir(small_corpus)
    ran = []
    for words in commands(ROOT / "docs" / "how-to" / "large-corpora.md"):
        line = shlex.join(words).replace("/data/", f"{small_corpus}/")
        for large, small in SMALL.items():
            line = line.replace(large, small)
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
        ran.append(" ".join(words[1:3]))
    assert ran.count("data index") == 3
    assert ran.count("data subset") == 2
    assert (small_corpus / "runs" / "laion" / "result.json").is_file()
    assert (small_corpus / "runs" / "parquet" / "result.json").is_file()


@page_name
def test_every_command_in_the_text_is_one(page):
    for span in re.findall(r"`clip-jax ([^`]+)`", prose(page)):
        words = [word.strip("[]") for word in span.split()]
        parser, rest = parser_of(words) if words[0] != "VERB" else (make_parser(), [])
        options = {option for action in parser._actions for option in action.option_strings}
        for name in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert name in options or name[2:] in {*field_names(*parser.configs), "FIELD"}, span


@page_name
def test_every_field_in_the_text_exists(page):
    known = field_names(*CONFIGS)
    groups = {name.rpartition(".")[0] for name in known} - {""}
    text = prose(page)
    if page.stem.startswith("from-"):  # the first column has the other project's names
        text = re.sub(r"^\|[^|]*", "", text, flags=re.MULTILINE)
    for span in re.findall(r"`([^`\n]+)`", text):
        name = span.removeprefix("--").partition("=")[0]
        file = name.endswith((".py", ".json", ".jsonl", ".csv", ".parquet"))
        if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", name) and name.partition(".")[0] in groups and not file:
            assert name in known | groups, span


@page_name
def test_every_block_of_python_compiles_and_finds_its_names(page, tmp_path):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("clip_jax"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), alias.name
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clip_jax":
                assert hasattr(clip_jax, node.attr), node.attr
        if "def get_config" in block:
            (tmp_path / "config.py").write_text(block)
            assert load(RunConfig, tmp_path / "config.py").steps > 0


def test_the_columns_are_those_of_the_tables():
    page = (ROOT / "docs" / "reference" / "tables.md").read_text()
    documented = {
        name for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    results = ROOT / "experiments" / "results" / "icons"
    written = set()
    for name in ("runs.csv", "evals.csv"):
        written |= set((results / name).read_text().partition("\n")[0].split(","))
    written = {re.sub(r"^error/.*", "error/TASK", re.sub(r"@\d+$", "@K", name)) for name in written}
    # newer than these records
    later = {"train_records", "train_digest", "passes", "val_negatives", "trunk", "branch_at", "drawn/PATH"}
    assert documented == written | later


@pytest.mark.parametrize("sweep", ["icons", "quickstart"])
def test_the_keys_of_a_law_are_those_of_the_page(sweep):
    page = (ROOT / "docs" / "reference" / "records.md").read_text()
    table = page.split("## `law.json`")[1].split("**A fit**")[0]
    documented = {
        name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    law = json.loads((ROOT / "experiments" / "results" / sweep / "law.json").read_text())
    assert documented == set(law)
    fit = page.split("**A fit**")[1].split("##")[0]
    assert not {name for name in law["fits"][0] if f"`{name}`" not in fit} - {"share_of_starts"}


def test_the_python_page_has_every_public_name():
    page = (ROOT / "docs" / "reference" / "python-api.md").read_text()
    documented = set(re.findall(r"^::: clip_jax\.(\w+)$", page, re.MULTILINE))
    assert documented == set(clip_jax.__all__)


def test_the_coverages_told_are_measured_ones():
    measured = (ROOT / "benchmarks" / "RESULTS_scaling.md").read_text()
    for name in ("intervals", "frontier"):
        figures = re.findall(r"\d+\.\d+(?= ?%)", (ROOT / "docs" / "explanation" / f"{name}.md").read_text())
        assert len(figures) > 3
        for number in figures:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", measured), (name, number)


def test_the_readme_is_short_and_every_page_is_in_the_site():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE))
    assert {hooks.source_path(path) for path in listed} >= {p.relative_to(ROOT).as_posix() for p in PAGES}
    assert all((ROOT / hooks.source_path(path)).is_file() for path in listed)
    notebooks = {p.relative_to(ROOT).as_posix() for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {hooks.source_path(path) for path in listed if path.startswith("notebooks/")} == notebooks


def test_a_notebook_is_a_page_with_its_pictures():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = hooks.notebook_page(path)
        outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", ())]
        assert len(pictures) == sum("image/png" in o.get("data", {}) for o in outputs) > 0
        assert all(data.startswith(b"\x89PNG") for data in pictures.values())
        assert re.findall(r"^!\[Figure \d+\]\((.+)\)$", text, re.MULTILINE) == list(pictures)
        assert text.count("<table") == sum("text/html" in o.get("data", {}) for o in outputs)
        assert text.startswith("# ")
        assert "<Figure" not in text


@pytest.mark.parametrize(
    ("link", "source", "in_site"),
    [
        ("docs/how-to/slurm.md", "README.md", "how-to/slurm.md"),
        ("../../experiments/results/README.md#a", "docs/how-to/memory.md", "../experiments/results/README.md#a"),
        ("../docs/faq.md", "benchmarks/RESULTS.md", "../faq.md"),
        ("../README.md", "docs/faq.md", "index.md"),
        ("../../notebooks/objectives.ipynb", "docs/how-to/compare-arms.md", "../notebooks/objectives.md"),
        ("icons/a.png", "experiments/results/README.md", "icons/a.png"),
        ("https://x.org/a.md", "README.md", "https://x.org/a.md"),
    ],
)
def test_relink_follows_where_a_page_lies_in_the_site(link, source, in_site):
    assert hooks.relink(f"[a]({link}) `[a]({link})`", source) == f"[a]({in_site}) `[a]({link})`"


def test_source_path_inverts_site_path():
    for page in [*LINKED, *(ROOT / "notebooks").glob("*.ipynb")]:
        name = page.relative_to(ROOT).as_posix()
        assert hooks.source_path(hooks.site_path(name)) == name


def test_expand_lists_commands_fields_and_laws():
    names = ("commands", "config-fields", "laws", "mup-table", "muon-flops", "record-fields")
    text = hooks.expand("\n".join(f"<!-- generated: {name} -->" for name in names))
    for part in (
        "## clip-jax train", "### clip-jax sweep forecast", "| `--at=FLOPS` | ", "`optim.peak_lr`", "## `chinchilla`",
        "`residual_in`", "### `result.json`", "| `--form=vmap\\|map` | ",
    ):  # fmt: skip
        assert part in text, part
    rows = [re.sub(r"`[^`]*`", "", row) for row in text.splitlines() if row.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {3, 4, 5}
    assert "<!--" not in text


@pytest.mark.thorough
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra 'docs')")
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra 'docs')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "python-api.html").read_text()
    assert 'id="clip_jax.load_model"' in page
    assert "The forecast came first" in (tmp_path / "tutorials" / "icons-law.html").read_text()
    notebook = (tmp_path / "notebooks" / "scaling_curves.html").read_text()
    assert 'src="scaling_curves/1.png"' in notebook
    assert '<table border="1" class="dataframe">' in notebook
    assert (tmp_path / "notebooks" / "scaling_curves" / "1.png").is_file()
    loaded = {
        src for page in tmp_path.rglob("*.html") for src in re.findall(r'<script src="([^"]+)"', page.read_text())
    }
    assert any("iframe-worker" in src for src in loaded)
    assert not [src for src in loaded if "://" in src], "the site needs nothing from elsewhere"
    assert from_dict(RunConfig, {}).steps  # the build imports the package; it must still be whole
