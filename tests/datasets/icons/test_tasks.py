"""Tasks take held-out rows only, count sets over both sides, and keep classes that have enough pictures."""

import pandas as pd

from clip_jax.datasets.icons import tasks as module
from clip_jax.datasets.icons.tasks import COMMON_EACH, LOGO_SETS, tasks


def table(rows):
    columns = ["set", "kind", "shown", "style", "country", "skin", "group", "held_out"]
    plain = {"kind": "icon", "style": "", "country": "", "skin": "", "group": "", "held_out": False}
    return pd.DataFrame([plain | row for row in rows], columns=columns)


def by_name(rows, common_sets=2):
    return {t.name: t for t in tasks(table(rows), common_sets)}


def test_common_task_counts_names_by_sets_and_caps_classes():
    rows = [{"set": s, "shown": w} for s in "ab" for w in ("cat", "dog")]
    rows += [{"set": "c", "shown": w, "held_out": True} for w in ("cat", "dog", "cow") for _ in range(COMMON_EACH + 3)]
    rows += [{"set": "c", "shown": "emu", "held_out": True}, {"set": "a", "shown": "emu"}]
    rows += [{"set": s, "shown": "acme", "held_out": s == "c"} for s in "abccc"]
    rows += [{"set": f"logos{i}", "kind": "logo", "shown": "acme"} for i in range(LOGO_SETS)]
    task = by_name(rows, common_sets=3)["icons-common"]
    assert task.classes == ("cat", "dog")  # cow is in one set; emu, in two, has one picture
    assert task.summary == {"classes": 2, "examples": 2 * COMMON_EACH, "chance": 0.5, "largest_class": 0.5}
    assert all(
        rows[r].get("held_out") and rows[r]["shown"] == task.classes[k]
        for r, k in zip(task.rows, task.labels, strict=True)
    )


def test_basic_task_holds_the_most_frequent_names(monkeypatch):
    monkeypatch.setattr(module, "BASIC", 2)
    sets = {"cat": "abcd", "dog": "abc", "emu": "ab", "fox": "ab"}
    rows = [{"set": s, "shown": w} for w, names in sets.items() for s in names]
    rows += [{"set": "z", "shown": w, "held_out": True} for w in sets for _ in range(module.BASIC_EACH + 1)]
    task = by_name(rows, common_sets=3)["icons-basic"]
    assert task.classes == ("cat", "dog")
    assert len(task.rows) == 2 * module.BASIC_EACH


def test_emoji_task_skips_skins_and_single_designer_emoji():
    def face(where, shown, group, **more):
        return {"set": where, "kind": "emoji", "shown": shown, "group": group, "held_out": where == "z"} | more

    rows = [face(s, w, g) for s in "ab" for w, g in (("grin", "Smileys & Emotion"), ("ant", "Animals & Nature"))]
    rows += [face("z", w, "People") for w in ("grin", "ant", "blob")] * 3
    rows += [face("z", "grin", "People", skin="dark"), face("z", "flag of Peru", "Flags", country="Peru")]
    tasks = by_name(rows)
    assert tasks["emoji"].classes == ("ant", "grin")
    assert len(tasks["emoji"].rows) == 6
    assert tasks["emoji-groups"].classes == ("animals and nature", "people and body", "smileys and emotion")
    assert "flags" not in tasks  # one country is no choice


def test_style_and_flag_tasks_hold_their_classes():
    rows = [
        {"set": "z", "shown": "cat", "style": s, "held_out": True}
        for s in ("filled", "outline", "thin")
        for _ in range(3)
    ]
    rows += [
        {"set": "z", "shown": "cat", "style": "bold", "held_out": True},
        {"set": "a", "shown": "cat", "style": "sharp"},
    ]
    rows += [
        {"set": "y", "kind": "flag", "shown": "", "country": c, "held_out": True}
        for c in ("Peru", "Chad", "Bouvet Island")
    ]
    tasks = by_name(rows)
    assert tasks["styles"].classes == ("filled", "outline", "thin")
    assert tasks["flags"].classes == ("Chad", "Peru")
    assert tasks["flags"].labels == [1, 0]
