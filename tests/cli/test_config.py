"""`clip-jax config`, and the fields in the help of commands that take them."""

import re

import pytest

from clip_jax.cli.config import CONFIGS, config_text
from clip_jax.cli.main import main
from clip_jax.config.fields import RENAMED, field_types
from clip_jax.config.io import from_dict, parse_value, set_dotted
from clip_jax.config.reference import groups_of

from ..user_errors import raises_user_error


@pytest.mark.parametrize("name", CONFIGS)
def test_config_reference_gives_each_field_a_type_a_meaning_and_a_default_that_parses(name):
    _, cls, prefix = CONFIGS[name]
    values = {}
    for entry in (entry for group in groups_of(cls, prefix) for entry in group.entries):
        assert entry.meaning, entry.name
        if entry.default:
            set_dotted(values, entry.name.removeprefix(prefix), parse_value(entry.default))
    required = {"name": "s"} if "name" in field_types(cls) else {}
    assert from_dict(cls, values | required) == cls(**required)


def test_config_prints_a_group_with_types_choices_defaults_and_meanings(capsys):
    assert main(["config", "optim"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"--optim\.peak_lr=0\.001 +float", text)
    assert re.search(r"--optim\.schedule=cosine +cosine \| wsd\n +wsd: warm-up, stable, linear decay", text)
    assert "--loss.name" not in text


def test_config_of_a_nested_group_and_of_all():
    assert config_text("model.image").startswith("model.image: ")
    assert all(f"--{name}=" in config_text(None) for name in ("seed", "loss.name", "resources.gres", "trials"))


def test_config_of_an_unknown_group_names_the_groups():
    with raises_user_error(field="GROUP", value="optimizer", hint="optim"):
        config_text("optimizer")


def test_config_as_markdown_holds_every_field_once_with_its_former_name():
    page = config_text(None, markdown=True)
    for _, cls, prefix in CONFIGS.values():
        for group in groups_of(cls, prefix):
            for entry in group.entries:
                assert page.count(f"\n| `{entry.name}` |") >= 1
    assert "formerly `max_broken`" in page
    groups = {"faults", "parametrisation", "by_budget"}
    former = {name for renamed in RENAMED.values() for name in renamed}
    assert set(re.findall(r"formerly `(\w+)`", page)) == former - groups
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["train"], "--optim.schedule=cosine"),
        (["train"], "--distributed.coordinator="),
        (["sweep", "run"], "--resources.grace_period_s=120"),
        (["sweep", "search"], "--survivor_fraction=1"),
    ],
)
def test_help_lists_the_fields_that_the_command_takes(command, option, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    out = capsys.readouterr().out
    assert option in out
    assert "--config" in out


@pytest.mark.parametrize("options", [["--color=red", "--licenses=MIT"], ["--colour=red", "--licences=MIT"]])
def test_data_icons_accepts_both_spellings_of_its_flags(options, tmp_path, capsys):
    assert main(["data", "icons", str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err.startswith("clip-jax: --color=red: must be #RRGGBB")
