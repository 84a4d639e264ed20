"""The whole corpus from a made-up package: what training and evaluation read, no leak, the same bytes every time."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from clip_jax.cli.main import main
from clip_jax.data.labeled.classification import load_classification_set
from clip_jax.data.labeled.open import open_labeled
from clip_jax.data.labeled.perceptual_hash import find_overlap, hashes
from clip_jax.data.sources.webdataset import WebDataset
from clip_jax.datasets.icons.build import HELD_OUT, LICENSES, IconsConfig, build, summary
from clip_jax.datasets.icons.package import digest

from ...user_errors import error_fields, raises_user_error


def files(out):
    return {
        str(p.relative_to(out)): digest(p) for p in sorted(out.rglob("*")) if p.is_file() and ".work" not in p.parts
    }


def pairs(out, split):
    source = WebDataset(out, split)
    return {
        source.name(i).rpartition("tar:")[2]: record
        for i, record in enumerate(source.get_many(list(range(len(source)))))
    }


def test_build_manifest_counts_kept_and_left_out_icons(tiny):
    out, manifest = tiny
    icons = manifest["icons"]
    assert icons["kept"] == 43
    assert (icons["train"], icons["val"]) == (19, 22)
    assert icons["left_out"] == {"animated": 1, "broken": 1, "empty": 1, "nameless": 1}
    assert icons["refused_licences"] == {"CC-BY-NC-4.0": 2, "GPL-3.0": 1}
    assert manifest["licences"] == {"Apache-2.0": 6, "CC-BY-4.0": 6, "CC0-1.0": 5, "MIT": 26}
    assert icons["withdrawn"] == 1
    assert "alpha/odd broken" in (out / "left_out.txt").read_text().splitlines()
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert "43 icons: 6 Apache-2.0" in summary(manifest)


def test_build_shards_are_read_by_the_training_source(tiny):
    out, manifest = tiny
    train, val = pairs(out, "train"), pairs(out, "val")
    assert (len(train), len(val)) == (manifest["icons"]["train"], manifest["icons"]["val"])
    record = train["alpha/arrow-left-circle"]
    assert record.captions[0] == "arrow left in a circle"
    assert Image.open(io.BytesIO(record.image)).size == (32, 32)
    assert val["banner/fr"].captions[0] == "flag of France"
    # in an order that mixes the sets, so that the first N pairs are a sample
    assert len({key.partition("/")[0] for key in list(train)[:6]}) > 1


def test_build_keeps_design_groups_on_one_side(tiny):
    out, manifest = tiny
    assert manifest["held_out"] == ["banner", "gamma", "grin"]
    assert manifest["families"] == [["beta", "copy"]]
    sides = [{key.partition("/")[0] for key in pairs(out, split)} for split in ("train", "val")]
    assert sides == [{"alpha", "beta", "copy", "smile"}, {"banner", "gamma", "grin"}]


def test_build_holding_out_one_set_holds_out_its_design_group(build_tiny, tmp_path):
    manifest = build_tiny(tmp_path, held_out=("copy",))
    assert manifest["held_out"] == ["beta", "copy"]
    assert {(link["one"], link["other"]) for link in manifest["links_of_held_out"]} == {("beta", "copy")}


def test_build_removes_near_duplicates_from_train(build_tiny, tmp_path):
    manifest = build_tiny(tmp_path)
    assert manifest["icons"]["removed"] == {"same_paths": 1, "perceptual_hash": 1, "within_bits": 4}
    train, val = pairs(tmp_path, "train"), pairs(tmp_path, "val")
    assert not {"alpha/house-fill", "alpha/hook"} & set(train)  # gamma/cottage and gamma/crook, of another family
    sides = [hashes(record.image for record in side.values()) for side in (train, val)]
    assert not find_overlap(*sides, max_distance=4).duplicate.any()


def test_build_tasks_are_read_by_the_evaluation(tiny):
    out, manifest = tiny
    assert set(manifest["tasks"]) == {"icons-basic", "icons-common", "emoji", "flags", "styles"}
    for name, entry in manifest["tasks"].items():
        task = load_classification_set(out / "eval" / name, 32, 0)
        assert (len(task.class_names), len(task.labels)) == (entry["classes"], entry["examples"])
        assert entry["chance"] == 1 / entry["classes"]
        assert set(np.unique(task.labels)) == set(range(entry["classes"]))
        assert open_labeled(out / "eval" / name).splits == ("test",)
    basic, common = (load_classification_set(out / "eval" / f"icons-{name}", 32, 0) for name in ("basic", "common"))
    assert set(basic.class_names) <= set(common.class_names)
    assert load_classification_set(out / "eval" / "flags", 32, 0).class_names == ("France", "Italy")
    assert load_classification_set(out / "eval" / "styles", 32, 0).class_names == ("filled", "outline", "thin")


def test_build_of_the_same_package_gives_the_same_bytes(build_tiny, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):  # also with processes in place of a loop
        build_tiny(tmp_path / name, workers=workers)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_build_interrupted_resumes(build_tiny, tmp_path, monkeypatch):
    from clip_jax.datasets.icons import build as module

    drawn = []

    def draw(icons, *rest, real=module.render_set):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(icons.prefix)
        real(icons, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "render_set", draw)
        with pytest.raises(KeyboardInterrupt):
            build_tiny(tmp_path / "broken")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "broken" / ".work").glob("*.pictures")}
    assert len(before) == 3
    build_tiny(tmp_path / "broken")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    build_tiny(tmp_path / "whole")
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_tiny(tmp_path / "broken")
    assert not (tmp_path / "broken" / "manifest.json").exists()  # it would tell of shards that are gone
    build_tiny(tmp_path / "broken", size=16)  # other pictures: all are drawn again
    assert all(p.stat().st_mtime_ns > time for p, time in before.items())


def test_build_of_some_sets_only(build_tiny, tmp_path):
    manifest = build_tiny(tmp_path, sets=("alpha", "gamma"), held_out=("gamma",))
    assert list(manifest["sets"]) == ["alpha", "gamma"]
    with raises_user_error(field="--sets", value="delta"):
        build_tiny(tmp_path / "none", sets=("alpha", "delta"))


@pytest.mark.parametrize(
    ("settings", "attributes"),
    [({"held_out": ("smiley",)}, {"field": "--held-out", "value": "smiley"}),
     ({"held_out": HELD_OUT}, {"field": "--held-out", "reason": "none of"}),
     ({"licenses": ("W",)}, {"field": "--licenses", "hint": "MIT"}), ({"size": 8}, {"field": "--size", "value": 8}),
     ({"color": "red"}, {"field": "--color", "value": "red"}),
     ({"held_out": ()}, {"field": "--held-out", "reason": "at least one"}),
     ({"near_bits": 65}, {"field": "--near-bits", "value": 65}),
     ({"held_out": ("alpha", "beta", "gamma", "smile", "grin", "banner")},
      {"field": "--held-out", "reason": "all of"})],
)  # fmt: skip
def test_build_with_a_wrong_setting_names_it(build_tiny, tmp_path, settings, attributes):
    with raises_user_error(**attributes):
        build_tiny(tmp_path, **settings)


def test_build_into_another_folder_is_refused(build_tiny, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / ".work").mkdir()  # where npm has put the package already
    (tmp_path / "train" / "mine.tar").write_text("mine")
    with raises_user_error(field="--out", value=tmp_path):
        build_tiny(tmp_path)
    assert (tmp_path / "train" / "mine.tar").read_text() == "mine"


def test_build_without_resvg_names_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setattr("clip_jax.datasets.icons.build.find_spec", lambda name: None)
    with raises_user_error(field="resvg_py", hint="icons]"):
        build(IconsConfig(tmp_path, package))


def test_build_from_the_command_line(package, tmp_path, capsys):
    out = tmp_path / "corpus"
    arguments = [f"--package={package}", "--held-out=gamma,grin,banner", "--size=32", "--workers=1", "--common-sets=3"]
    assert main(["data", "icons", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "removed from train" in printed
    assert "icons-common" in printed
    assert (out / "contact_sheet.png").is_file()
    assert main(["data", "icons", str(out), "--package=none.tgz"]) == 2
    err = capsys.readouterr().err
    assert error_fields(err) == ["--package"]
    assert "none.tgz" in err


def test_default_licenses_hold_no_nc_and_no_gpl():
    assert not [name for name in LICENSES if "NC" in name or "GPL" in name]
    assert len(set(HELD_OUT)) == len(HELD_OUT)
