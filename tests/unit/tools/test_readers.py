"""The data of run.py evaluate: readers on files in the real formats, and what is wrong with files of one's own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from support.evaluation import SIZE, box, cases_of, encoded, picture, write_config
from tools.config_file import ConfigError
from tools.evaluate import readers
from tools.evaluate.cases import Case, DataError, Pair, Pictures
from tools.evaluate.config import BY_NAME, read_plan
from tools.evaluate.phrases import guided_prompts, places, replaced
from tools.pictures import PictureError, read_mask, read_picture


@pytest.fixture
def own(tmp_path):
    """A folder of one's own: two pictures and their masks."""
    for name in "ab":
        picture().save(tmp_path / f"{name}.jpg")
        box(10, 40).save(tmp_path / f"{name}_left.png")
        box(40, 70).save(tmp_path / f"{name}_right.png")
    return tmp_path


def test_a_folder_of_ones_own(own):
    entries = [
        {
            "image": "a.jpg",
            "source": "a red\n cat",
            "edit": "a blue cat",
            "mask": "a_left.png",
            "token": "t.safetensors",
        },
        {
            "image": "b.jpg",
            "source": "a cat and a dog",
            "pairs": [
                {"before": "a cat", "after": "a fox", "mask": "b_left.png"},
                {"before": "a dog", "after": "a cow", "mask": "b_right.png"},
            ],
        },
        {"source": "a man", "edit": "a robot", "seed": 7},
    ]
    (own / "edits.yaml").write_text(yaml.safe_dump(entries))
    first, second, third = cases_of(own, {"folder": "."})
    assert (first.source, first.edit, first.token, first.generated) == (
        "a red cat",
        "a blue cat",
        "t.safetensors",
        False,
    )
    assert second.edit == "a fox and a cow" and second.masked_pairs
    assert third.generated and not third.picture and third.seed == 7
    folder = own / "evaluation" / "inputs"
    kept = Image.open(folder / first.picture)
    assert kept.size == (SIZE, SIZE) and kept.mode == "RGB"
    # 80 x 60 to 64 x 64: the middle 60 columns are kept, so the two masks touch and lose 0 columns of their own.
    joined = np.asarray(Image.open(folder / second.mask))
    each = [np.asarray(Image.open(folder / pair.mask)) for pair in second.pairs]
    assert set(np.unique(joined)) == {0, 255} and (joined == np.maximum(*each)).all()
    assert Image.open(folder / first.mask).getbbox()[0] == 0


def test_a_csv_says_the_same_as_a_yaml(own):
    row = {"image": "a.jpg", "source": "a cat", "before": "cat", "after": "dog", "mask": "a_left.png", "seed": 3}
    (own / "edits.yaml").write_text(yaml.safe_dump([row]))
    from_yaml = cases_of(own, {"name": "x", "folder": "."})
    lines = [",".join(row), ",".join(map(str, row.values()))]
    (own / "edits.yaml").rename(own / "old")
    (own / "edits.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    assert cases_of(own, {"name": "x", "folder": "."}) == from_yaml
    assert from_yaml[0].pairs[0].mask == from_yaml[0].mask != ""


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"image": "none.jpg", "source": "a", "edit": "b"}, "none.jpg does not exist"),
        ({"source": "a"}, "edit: is missing"),
        ({"source": "a cat", "before": "dog", "after": "cow"}, "'dog' is not in the prompt"),
        ({"source": "a", "edit": "b", "sed": 3}, "unknown key sed"),
        ({"source": "a", "edit": "b", "image": "edits.yaml"}, "is not a picture"),
        ({"source": "a", "edit": "b", "mask": "empty.png"}, "marks nothing"),
        ({"source": "a cat", "edit": "cat -> dog"}, "has an arrow in its edited prompt 'cat -> dog'"),
    ],
)
def test_a_wrong_entry_is_named(own, entry, says):
    Image.new("L", (80, 60)).save(own / "empty.png")
    (own / "edits.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(ConfigError, match=r"edits\.yaml\[0\]|'000 ") as caught:
        cases_of(own, {"folder": "."})
    assert says in str(caught.value)


def test_oirbench_single_and_multi_with_field_names_of_choice(own):
    multi = [
        {
            "image": "a.jpg",
            "source_prompt": "a cat beside a dog",
            "pairs": [
                {"source_phrase": "a cat", "target_phrase": "a fox", "mask": "a_left.png"},
                {"source_phrase": "a dog", "target_phrase": "a cow", "mask": "a_right.png"},
            ],
        }
    ]
    single = {"cat": {"img": "b.jpg", "prompts": {"origin": "a cat"}, "from": "cat", "to": "dog", "seg": "b_left.png"}}
    (own / "multi.yaml").write_text(yaml.safe_dump(multi))
    (own / "single.yaml").write_text(yaml.safe_dump(single))
    (case,) = cases_of(own, {"oirbench": {"file": "multi.yaml", "images": "."}})
    assert case.edit == "a fox beside a cow" and case.seed == 1 and len({pair.mask for pair in case.pairs}) == 2
    fields = {"image": "img", "prompt": "prompts.origin", "before": "from", "after": "to", "mask": "seg"}
    (case,) = cases_of(own, {"oirbench": {"file": "single.yaml", "images": ".", "fields": fields}})
    assert (case.name, case.source, case.edit) == ("cat", "a cat", "a dog") and case.mask == case.pairs[0].mask
    with pytest.raises(ConfigError, match=r"has no 'image'; it has: name, .*'fields'"):
        cases_of(own, {"oirbench": {"file": "single.yaml", "images": "."}})


def bench_rows():
    """Two rows with the columns of PartEdit-Bench's data set card."""
    picture_of = {"bytes": encoded(picture()), "path": "x.png"}
    common = {
        "id": 0,
        "original_image": picture_of,
        "partedit": picture_of,
        "subject": "man",
        "edit": "robot",
        "part": "head",
        "gt_mask": {"bytes": encoded(box(10, 40)), "path": None},
        "class_name": "human",
        "prompt_original": "a closeup of a man",
        "prompt_changed": "a closeup of a man with a robotic head",
        "p2p_prompt": "a closeup of a robot",
        "p2p_template": "a closeup of a <>",
        "instructp2p_edit1": "make the head robotic",
        "instructp2p_edit2": "",
        "instructp2p_edit3": "",
        "seed": 5,
    }
    other = {"class_name": "quadruped_head", "subject": "dog", "prompt_original": "a dog", "edit": "dragon"}
    return [common, {**common, **other, "id": 1}]


def test_partedit_bench_is_read_from_parquet(tmp_path):
    rows = bench_rows()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "synth.parquet")
    first, second = cases_of(tmp_path, {"partedit_bench": {"file": "synth.parquet"}})
    assert (first.source, first.edit, first.seed) == ("a closeup of a man", "a closeup of a robot", 5)
    assert first.picture and first.pairs[0].mask == first.mask != "" and not first.generated
    # human and head; the second names its token alone.
    assert (first.token, second.token) == ("partimage_human_head.pt", "partimage_quadruped_head.pt")
    made, _ = cases_of(tmp_path, {"partedit_bench": {"file": "synth.parquet", "generate": True}})
    assert made.generated and not made.picture and not made.mask and made.seed == 5
    tokens = {"human": "mine.safetensors"}
    (made,) = cases_of(tmp_path, {"partedit_bench": {"file": "synth.parquet", "tokens": tokens, "limit": 1}})
    assert made.token == "mine.safetensors"


def test_partedit_bench_of_an_older_revision_and_an_unknown_part(tmp_path):
    """The authors' demo reads the token from one column, and has the two heads the wrong way round."""
    older = {"prompt_original": "a dog", "subject": "dog", "edit": "cat", "token_cls": "quadruped_head", "seed": 1}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([older]), tmp_path / "old.parquet")
    (made,) = cases_of(tmp_path, {"partedit_bench": {"file": "old.parquet"}})
    assert made.generated and made.token == "partimage_quadruped_head.pt"
    unknown = [{**bench_rows()[0], "class_name": "lamp", "part": "shade"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(unknown), tmp_path / "new.parquet")
    with pytest.raises(ConfigError, match=r"no token is known for class_name 'lamp', part 'shade'\. Add one"):
        cases_of(tmp_path, {"partedit_bench": {"file": "new.parquet"}})


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        readers.read_parquet(tmp_path / "x.parquet")


FIG_19 = {
    "template": "A <OBJECT> at a <LOCATIONS>",
    "template2": "A <EDIT> at a <LOCATIONS>",
    "objects": ["cat", "dog", "monkey"],
    "locations": ["forest", "city"],
    "edits": {"_animal": ["panda", "cat", "dragon"]},
}


def test_prompts_are_drawn_as_in_fig_19(tmp_path):
    (tmp_path / "animals.json").write_text(json.dumps(FIG_19))
    data = {"prompts": {"file": "animals.json", "count": 12, "token": "head.safetensors"}}
    cases = cases_of(tmp_path, data)
    assert cases == cases_of(tmp_path, data), "the same seed draws the same prompts"
    assert len({(case.source, case.edit) for case in cases}) == 12 and len({case.seed for case in cases}) == 12
    for case in cases:
        (pair,) = case.pairs
        assert case.source.replace(pair.before, pair.after, 1) == case.edit and pair.before != pair.after
        assert case.generated and case.token == "head.safetensors" and "<" not in case.source + case.edit
    with pytest.raises(ConfigError, match="99 prompts are wanted; the lists give 16"):
        cases_of(tmp_path, {"prompts": {"file": "animals.json", "count": 99}})


# --- lists with mistakes ---------------------------------------------------------------------------------------


def listed(folder, text, name="edits.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return cases_of(folder, {"name": "x", "folder": {"path": ".", "file": name}})


@pytest.mark.parametrize(
    "text",
    [
        'image;source;edit\na.jpg;"a red\ncat; asleep";a blue cat\n;;\n',  # as Excel writes it in half of Europe
        'image\tsource\tedit\na.jpg\t"a red\ncat; asleep"\ta blue cat\n',
        ' image , source , edit \n a.jpg , "a red\ncat; asleep", a blue cat \n,,\n',
        '\ufeffimage,source,edit\r\na.jpg,"a red\r\ncat; asleep",a blue cat\r\n',
    ],
)
def test_tables_of_any_program_are_read(own, text):
    """A line break in a cell once joined the words before and after it."""
    (case,) = listed(own, text)
    assert (case.source, case.edit) == ("a red cat; asleep", "a blue cat") and case.picture


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source,edit\na cat, red,a dog\n", "line 2: has more cells than the head. Put a text with ','"),
        ('source,edit\na "cat,a dog\n"a cat, a dog\n', "cannot be read"),
        ("source,edit\na caf\u00e9,b\n".encode("latin-1"), "is not text in UTF-8"),
        ("source,edit,sed\na,b,3\n", "unknown key sed"),
        ("source,edit\n", "expected a list of edits"),
        ("source,edit\n ,b\n", "source: is missing"),
    ],
)
def test_what_is_wrong_in_a_table_is_said(own, text, says):
    with pytest.raises(ConfigError) as caught:
        listed(own, text)
    assert says in str(caught.value)


def test_json_is_read_as_json(own):
    """As YAML, tabs would be refused, and a sign beyond the first plane would become two halves of one."""
    (case,) = listed(own, json.dumps([{"source": "a \U0001f642 cat", "edit": "b"}], indent="\t"), "edits.json")
    assert case.source == "a \U0001f642 cat"
    with pytest.raises(ConfigError, match="'edit' is there twice"):
        listed(own, '[{"source": "a", "edit": "b", "edit": "c"}]', "edits.json")


def test_a_key_that_is_there_twice_is_refused(own):
    """YAML takes the last one, and a data set or a prompt was gone without a word."""
    with pytest.raises(ConfigError, match="line 3: 'edit' is there twice"):
        listed(own, "- source: a\n  edit: b\n  edit: c\n", "edits.yaml")
    file = write_config(own, [{"demo": {}}])
    file.write_text(file.read_text() + "data:\n- demo: {count: 3}\n")
    with pytest.raises(ConfigError, match="'data' is there twice"):
        read_plan(file)
    file.write_text(
        "size: 64\nmethods: [unchanged]\ndata: [{demo: &d {count: 1}}, {name: b, demo: {<<: *d, count: 2}}]"
    )
    assert [len(one.cases) for one in read_plan(file).data] == [1, 2], "what is merged in may be set anew"


def test_one_list_of_two_has_to_be_named(own):
    for name in ("edits.yaml", "edits.csv"):
        (own / name).write_text("source,edit\na,b\n" if name.endswith("csv") else "[{source: a, edit: b}]")
    with pytest.raises(ConfigError, match=r"has edits\.yaml and edits\.csv\. Name the one"):
        cases_of(own, {"folder": "."})


# --- phrases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "pairs", "edit"),
    [
        # Whole words, as the nodes find them: this was once "a dogerpillar and a cat".
        ("a caterpillar and a cat", [("cat", "dog")], "a caterpillar and a dog"),
        # All at once: the second pair once changed what the first had put in.
        ("a cat and a dog", [("cat", "dog"), ("dog", "cat")], "a dog and a cat"),
        # Equal words are different objects; longer ones choose first.
        ("a cat and a cat", [("a cat", "a dog"), ("a cat", "a fox")], "a dog and a fox"),
        ("a black cat and a cat", [("cat", "dog"), ("black cat", "fox")], "a fox and a dog"),
        ("A Cat, asleep", [("a cat", "a dog")], "a dog, asleep"),
        ("\u4e00\u53ea\u732b", [("\u732b", "\u72d7")], "\u4e00\u53ea\u72d7"),
    ],
)
def test_the_edited_prompt_is_the_one_that_is_meant(source, pairs, edit):
    assert replaced(source, pairs) == edit


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([("man", "robot")], "'man' is not in the prompt 'a woman and a red cat' as whole words"),
        ([("red cat", "dog"), ("cat", "fox")], "'cat' is in the prompt 'a woman and a red cat' only within another"),
    ],
)
def test_a_phrase_that_is_not_there_is_named(pairs, says):
    with pytest.raises(DataError) as caught:
        replaced("a woman and a red cat", pairs)
    assert says in str(caught.value)


def test_objects_are_told_apart_by_their_place_in_the_prompt(own):
    pairs = [Pair("a cat", after, "m.png") for after in ("a dog", "a fox")]
    case = Case("d", "n", "a cat beside a cat", "a dog beside a fox", "p.png", "m.png", tuple(pairs))
    assert [place.occurrence for place in places(case.source, case.befores)] == [1, 2]
    assert guided_prompts(case) == ["a dog beside a cat", "a cat beside a fox"]
    other = replace(case, source="two cats")
    method = BY_NAME["oir"].model_validate({"method": "oir"})
    assert method.lacks(case) == "" and "'a cat' is not in the prompt 'two cats'" in method.lacks(other)


def test_partedit_bench_has_the_edited_prompt_where_the_subject_is_not_found(tmp_path):
    row = {**bench_rows()[0], "prompt_original": "a closeup of two men", "p2p_prompt": "a closeup of two robots"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    (case,) = cases_of(tmp_path, {"partedit_bench": {"file": "x.parquet"}})
    assert case.edit == "a closeup of two robots"
    with pytest.raises(ConfigError, match=r"x.parquet, row 0: 'man' is not in .* no edited prompt in 'none'"):
        cases_of(tmp_path, {"partedit_bench": {"file": "x.parquet", "fields": {"edited": "none"}}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gt_mask": {"bytes": encoded(Image.new("L", (80, 60))), "path": None}}, "gt_mask: the mask marks nothing"),
        ({"original_image": {"bytes": b"no", "path": None}}, "original_image: it is not a picture"),
        ({"seed": "seven"}, "seed: expected a whole number"),
    ],
)
def test_a_wrong_row_of_partedit_bench_is_named(tmp_path, change, says):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**bench_rows()[0], **change}]), tmp_path / "x.parquet")
    with pytest.raises(ConfigError) as caught:
        cases_of(tmp_path, {"partedit_bench": {"file": "x.parquet"}})
    assert f"x.parquet, row 0.{says}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"template2": "A dragon at a <LOCATIONS>"}, "template2: has no <EDIT>"),
        ({"template": "A <OBJECT> at a <PLACE>"}, "template: does not know <PLACE>"),
        ({"locations": []}, "locations: is missing"),
    ],
)
def test_templates_that_would_give_the_same_prompts_are_refused(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        cases_of(tmp_path, {"prompts": {**FIG_19, "count": 3, **change}})


# --- pictures and masks ----------------------------------------------------------------------------------------


def test_a_mask_of_another_shape_than_its_picture_is_refused(own):
    """Cut to the same square, it would lie elsewhere; most come from a picture that its EXIF entry turns."""
    turned = Image.Exif()
    turned[0x0112] = 6
    picture().save(own / "phone.jpg", exif=turned)
    with pytest.raises(
        ConfigError, match=r"edits\.csv\[0\].*a_left\.png: the mask is 80 × 60 pixels, its picture 60 × 80"
    ):
        listed(own, "image,mask,source,edit\nphone.jpg,a_left.png,a,b\n")
    box(10, 40).resize((27, 20)).save(own / "small.png")
    (case,) = listed(own, "image,mask,source,edit\na.jpg,small.png,a,b\n")
    assert case.mask


def test_files_are_found_as_other_systems_write_them(own):
    (own / "masks").mkdir()
    (own / "a_left.png").rename(own / "masks" / "caf\u00e9 1.png")
    rows = [{"source": "a", "edit": "b", "image": "a.jpg", "mask": "masks\\cafe\u0301 1.png"}]
    (case,) = listed(own, yaml.safe_dump(rows), "edits.yaml")
    assert case.mask


@pytest.mark.parametrize("mode", ["16", "int", "labels", "1", "LA"])
def test_masks_of_all_kinds_say_the_same(tmp_path, mode):
    pictures, plain = Pictures(tmp_path, SIZE), box(10, 40)
    values = np.asarray(plain)
    alpha = Image.merge("LA", (Image.new("L", plain.size, 9), plain))
    given = {
        "16": Image.fromarray(values.astype(np.uint16) * 257),
        "int": Image.fromarray(values.astype(np.int32) * 257),
        "labels": Image.fromarray((values > 0).astype(np.uint16)),
        "1": plain.convert("1"),
        "LA": alpha,
    }[mode]
    given.save(tmp_path / "mask.tif")
    assert pictures.mask(read_mask(tmp_path / "mask.tif")) == pictures.mask(plain)


def test_pictures_of_all_kinds_say_the_same(tmp_path):
    """16 bits of grey were once cut off at 255, which left a white picture."""
    values = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    plain = Image.fromarray(values).convert("RGB")
    for name, image in {
        "grey16.png": Image.fromarray(values.astype(np.uint16) * 257),
        "grey32.tif": Image.fromarray(values.astype(np.int32) * 257),
        "alpha.png": plain.convert("RGBA"),
        "grey.png": Image.fromarray(values),
        "palette.png": Image.fromarray(values).convert("P"),
    }.items():
        image.save(tmp_path / name)
        assert (np.asarray(read_picture(tmp_path / name)) == np.asarray(plain)).all(), name
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(read_picture(tmp_path / "cmyk.jpg")).astype(int) - np.asarray(plain)).max() < 8
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(PictureError, match=r"float\.tif has values from 0 to 252 in mode F\. Save it"):
        read_picture(tmp_path / "float.tif")


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:60] + b"x" * 200, lambda _: b""]
)
def test_a_damaged_picture_is_named(tmp_path, damage):
    (tmp_path / "cut.png").write_bytes(damage(encoded(Image.effect_noise((64, 64), 90))))
    with pytest.raises(PictureError, match=r"cut\.png is not a picture that can be read"):
        read_picture(tmp_path / "cut.png")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)


def test_a_plan_keeps_no_pictures(own):
    """A data set of a thousand pictures took gigabytes to count."""
    (own / "edits.csv").write_text("image,mask,source,edit\na.jpg,a_left.png,a,b\n")
    plan = read_plan(write_config(own, [{"folder": "."}]), write=False)
    (case,) = plan.cases
    assert list(plan.pictures.kept) == [case.mask] and plan.pictures.open(case.mask).size == (SIZE, SIZE)
