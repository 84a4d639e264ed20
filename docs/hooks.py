"""Complete the site while MkDocs builds it: files from outside ``docs/``, generated references, and their links.

A page lies in the site where it lies in the repository, without ``docs/``; the home page is ``README.md``, and a
notebook is a page with the outputs that are committed in it (`notebook_page`). So a relative link works on a code host
and in the site alike: `relink` only removes the difference.

A line ``<!-- generated: NAME -->`` is replaced by the output of ``GENERATED[NAME]`` (`expand`).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_jax.scaling.laws import Law

ROOT = Path(__file__).parents[1]
# copied into the site; a page of the site may link to any of them
COPIED = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CITATION.cff", "LICENSE",
    "benchmarks/*.md", "experiments/results/**/*.md", "experiments/results/**/*.png",
)  # fmt: skip
MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def commands() -> str:
    """Return a section for each command of ``clip-jax``, from its parser."""
    from clip_jax.cli.main import make_parser
    from clip_jax.cli.parser import parsers

    sections = []
    for parser, depth in parsers(make_parser()):
        lines = [f"{'#' * depth} {parser.prog}", "", _escaped(parser.description), ""]
        if not parser._subparsers:
            lines += ["```text", parser.format_usage().removeprefix("usage: ").rstrip(), "```", ""]
        options = [a for a in parser._actions if not isinstance(a, (argparse._HelpAction, argparse._SubParsersAction))]
        if options:
            lines += ["| argument | meaning |", "|---|---|", *map(_option_row, options)]
        if configs := getattr(parser, "configs", ()):
            names = " and ".join(f"`{name}`" for name in configs)
            lines += ["", f"It takes every [config field](config.md) of {names} as `--FIELD=VALUE`."]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _option_row(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    values = "" if action.nargs == 0 else "=" + ("|".join(action.choices) if action.choices else metavar)
    name = ", ".join(f"{option}{values}" for option in action.option_strings) or metavar
    required = "Required. " if action.required and action.option_strings else ""
    cells = (f"`{name}`", required + _escaped((action.help or "") % {"default": action.default}))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _escaped(text: str | None) -> str:
    return re.sub(r"([<>*_])", r"\\\1", text or "")


def config_fields() -> str:
    """Return the tables of ``clip-jax config --markdown``, without its title."""
    from clip_jax.cli.config import config_text

    return config_text(None, markdown=True).partition("\n")[2].strip()


def laws() -> str:
    """Return a section for each law: its formula as a picture and in LaTeX, and its parameters."""
    sections = []
    for law in _every_law():
        about = (type(law).__doc__ or "").strip()
        about = " ".join(about.split("\n\n")[0].split())
        parameters = [f"| `{p.name}` | {_escaped(p.meaning)} |" for p in law.parameters]
        columns = ", ".join(f"`{c}`" for c in law.columns)
        sections.append("\n".join([
            f"## `{law.key}`", "", about, "", f"![{law.formula}](formulas/{law.key}.svg){{.formula}}", "",
            f"Columns: {columns}.", "", "| parameter | meaning |", "|---|---|", *parameters,
            "", "```latex", law.latex, "```",
        ]))  # fmt: skip
    return "\n\n".join(sections)


def _every_law() -> tuple[Law, ...]:
    from clip_jax.scaling.curves.laws import CURVE_LAWS
    from clip_jax.scaling.laws import EVERY

    return *EVERY, *(of_one_size() for of_one_size, _ in CURVE_LAWS.values())


def mup_table() -> str:
    """Return the exponents of `config.mup.TABLE`."""
    from clip_jax.config.mup import TABLE

    def cell(powers: tuple[float, float]) -> str:
        return "–" if powers == (0, 0) else f"({powers[0]:g}, {powers[1]:g})"

    rows = [f"| `{name}` | {cell(e.init)} | {cell(e.lr)} | {cell(e.eps)} |" for name, e in TABLE.items()]
    return "\n".join(["| tensors | initial scale | learning rate | epsilon |", "|---|---|---|---|", *rows])


def muon_flops() -> str:
    """Return the share of Muon's iterations in a step's FLOPs, by model and batch."""
    from clip_jax.config.presets import ladder, preset
    from clip_jax.flops.model import training_flops
    from clip_jax.flops.optimizer import muon_flops as counted

    models = {f"rung {rung:g} of the ladder": ladder(rung) for rung in (1, 4)}
    models |= {name: preset(name) for name in ("ViT-S/32", "ViT-B/32", "ViT-B/16", "ViT-L/14")}
    batches = (128, 1024, 32768)
    lines = ["| model, width | " + " | ".join(f"batch {b:,}" for b in batches) + " |", "|---|" + "---|" * len(batches)]
    for name, model in models.items():
        steps = [training_flops(model, batch, batch).total for batch in batches]
        cells = " | ".join(f"{100 * counted(model) / (counted(model) + step):.2g} %" for step in steps)
        lines.append(f"| {name}, {model.image.width} | {cells} |")
    return "\n".join(lines)


def record_fields() -> str:
    """Return a table of the checked fields of each record."""
    from clip_jax.storage.record_fields import FIELDS, REQUIRED

    def kind(value: Any) -> str:
        if isinstance(value, list):
            return f"list of {kind(value[0])}"
        return "{" + ", ".join(f"{k}: {kind(v)}" for k, v in value.items()) + "}" if isinstance(value, dict) else value

    sections = []
    for name, fields in FIELDS.items():
        required = REQUIRED.get(name, ())
        rows = [f"| `{f}` | {kind(k)} | {'yes' if f in required else ''} |" for f, k in fields.items()]
        sections.append("\n".join([f"### `{name}`", "", "| field | type | required |", "|---|---|---|", *rows]))
    return "\n\n".join(sections)


def formula_svg(latex: str) -> str:
    """Return a formula as an SVG picture; matplotlib sets it, so the site loads no program from elsewhere."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    out = io.BytesIO()
    latex = latex.replace("½", r"\frac{1}{2}").replace("C_\\frac{1}{2}", r"C_{1/2}")
    math_to_image(f"${latex}$", out, prop=FontProperties(size=14), format="svg")
    return out.getvalue().decode()


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by their paths beside the page.

    Tables stay HTML; what a cell wrote to stderr is left out.
    """
    pictures: dict[str, bytes] = {}
    parts = []

    def fenced(kind: str, lines: str | list[str]) -> str:
        return f"````{kind}\n{''.join(lines).rstrip()}\n````"

    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = cell["source"]
        parts.append("".join(source) if cell["cell_type"] == "markdown" else fenced("python", source))
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}/{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Figure {len(pictures)}]({name})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            elif output.get("name") != "stderr":
                parts.append(fenced("text", data.get("text/plain") or output["text"]))
    return "\n\n".join(parts) + "\n", pictures


def registered_forecasts() -> str:
    """Return the table of every forecast that is registered in the repository, and how it came out."""
    from clip_jax.sweep.analysis.registrations import registered_rows

    head = ("experiment", "metric", "by", "FLOPs, beyond the fit", "predicted", "95 % band", "measured", "off")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for folder in sorted((ROOT / "experiments" / "results").iterdir()):
        for row in registered_rows(folder) if folder.is_dir() else []:
            ends = ("open" if row[end] is None else f"{row[end]:.4f}" for end in ("low", "high"))
            graded = ["not yet", ""]
            if row["measured"] is not None:
                graded = [f"{row['measured']:.4f}, {'inside' if row['inside'] else 'outside'}", f"{row['off']:+.1%}"]
            cells = [
                folder.name, f"`{row['metric']}`", row["form"], f"{row['flops']:.3g}, {row['times']:.3g}×",
                f"{row['predicted']:.4f}", " to ".join(ends), *graded,
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands, "config-fields": config_fields, "laws": laws,
    "mup-table": mup_table, "muon-flops": muon_flops, "record-fields": record_fields,
    "registered-forecasts": registered_forecasts,
}  # fmt: skip


def expand(text: str) -> str:
    """Replace the markers of a page by what they stand for."""
    return MARKER.sub(lambda match: GENERATED[match[1]](), text)


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site: ``docs/x.md`` and ``x.ipynb`` at ``x.md``, the README at
    ``index.md``.
    """
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/").replace(".ipynb", ".md")


def source_path(path: str) -> str:
    """Return the file of the repository that a path of the site stands for; the inverse of `site_path`."""
    if path == "index.md":
        return "README.md"
    if path.startswith("notebooks/"):
        return path.replace(".md", ".ipynb")
    return path if path.startswith(("benchmarks/", "experiments/")) or path in COPIED else f"docs/{path}"


def relink(text: str, source: str) -> str:
    """Return a page's text with its relative links as the site needs them.

    Args:
      text: Markdown.
      source: the page's path in the repository.
    """
    folder = posixpath.dirname(site_path(source))

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(site_path(target), folder or ".")

    parts = CODE.split(text)
    return "".join(part if part.startswith("`") else LINK.sub(link, part) for part in parts)


# events of MkDocs


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside ``docs/``, the notebooks and the pictures of formulas."""
    from mkdocs.structure.files import File

    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, site_path(name), abs_src_path=str(path)))
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        text, pictures = notebook_page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for law in _every_law():
        files.append(File.generated(config, f"reference/formulas/{law.key}.svg", content=formula_svg(law.latex)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what is generated, adapt links and folded sections, and keep percentages of tables on one line."""
    text = relink(expand(markdown), source_path(page.file.src_uri))
    text = re.sub(r"^\|.*", lambda row: re.sub(r"(?<=\d) %", "\u00a0%", row[0]), text, flags=re.MULTILINE)
    return text.replace("<details>", '<details markdown="1">')
