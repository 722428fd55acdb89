"""Recipes: what the files say is what the steps come to, and what is wrong in a file is named."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.recipes import load, names, table
from tokexport.graph_passes.recipes.recipe import Budget, Recipe
from toy_vit import run, toy_vit

TWO = """
[[steps]]
method = "cls_topk"
seam = "encoder_output"
ratio = "1/2"

[[steps]]
method = "visionzip"
seam = "encoder_output"
ratio = "1/2"
shares = { contextual = "1/4" }
"""
BUDGET = """
[budget]
model = "m"
tokens = 16
entering = {}
average = "{}"
over = "language model"
layers = 2
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "two.toml").write_text(TWO)
    return tmp_path / "two.toml"


def test_built_in_recipes_name_their_source_and_both_budgets() -> None:
    alone = ["duet", "lftr-16x", "lftr-8x", "visionzip-128", "visionzip-192", "visionzip-64", "vscan"]
    whole = [f"{name}-{budget}" for name in ("apet", "duet", "sparsevlm") for budget in (192, 128, 64)]
    inside = ["a-tome-blocks", "ast-blocks", "dynamicvit-blocks", "evit-blocks", "folder-last-block", "tome-blocks"]
    assert names() == sorted([*alone, *whole, *inside, "xray-visual", "fastv", "pyramiddrop", "vscan-64"])
    for row in table():
        assert {"name", "summary", "steps", "source", "budget"} <= set(row)
        assert {"tokens", "entering", "average", "over", "layers", "model"} <= set(row["budget"])


@pytest.mark.parametrize(
    ("name", "tokens", "counts"),
    [
        ("visionzip-64", 576, [64]),
        ("visionzip-128", 576, [128]),
        ("visionzip-192", 576, [192]),
        ("lftr-8x", 2048, [256]),
        ("lftr-16x", 2048, [128]),
        ("duet", 576, [327, 306]),
        ("vscan", 576, [288, 96]),
        ("apet-192", 576, [288, 96]),
        ("apet-128", 576, [192, 64]),
        ("apet-64", 576, [96, 32]),
        ("duet-192", 576, [327, 306, 153, 0]),
        ("duet-128", 576, [297, 201, 100, 0]),
        ("duet-64", 576, [191, 101, 50, 0]),
        ("sparsevlm-192", 576, [309, 204, 113]),
        ("sparsevlm-128", 576, [312, 117, 39]),
        ("sparsevlm-64", 576, [82, 32, 18]),
        ("fastv", 576, [288]),
        ("pyramiddrop", 576, [288, 144, 72]),
        ("vscan-64", 576, [288, 96, 32]),
        # As the released code counts: the fused token of EViT is one of them.
        ("evit-blocks", 196, [139, 99, 71]),
        ("xray-visual", 196, [139, 99, 71]),
        ("dynamicvit-blocks", 196, [137, 96, 67]),
        ("ast-blocks", 512, [359, 252, 177]),
        ("tome-blocks", 196, [196 - 12 * 13]),
        ("folder-last-block", 576, [192]),
        # Ratios scale with the model.
        ("visionzip-64", 144, [16]),
        ("vscan", 144, [72, 24]),
    ],
)
def test_tokens_left_after_each_step(name: str, tokens: int, counts: list[int]) -> None:
    assert load(name).counts(tokens) == counts


def test_contextual_tokens_are_those_of_the_papers() -> None:
    (step,) = load("visionzip-64").made()
    assert step.made(64).contexts(_case(576, 64)) == 10
    assert load("duet").made()[1].made(306).contextual == 7
    # A pool of 4 for each contextual token, beside 299 dominant ones.
    assert load("duet").counts(576)[0] == 299 + 4 * 7


def test_the_counts_of_evit_are_those_of_its_code() -> None:
    left, counts = 196, []
    for _ in range(3):
        left = math.ceil(left * 7 / 10) + 1
        counts.append(left)
    assert load("evit-blocks").counts(196) == counts


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("evit-blocks", [196] * 4 + [139] * 3 + [99] * 3 + [71] * 2),
        ("xray-visual", [196] * 4 + [139] * 4 + [99] * 3 + [71]),
        ("dynamicvit-blocks", [196] * 3 + [137] * 3 + [96] * 3 + [67] * 3),
        ("tome-blocks", [196 - 13 * i for i in range(12)]),
    ],
)
def test_the_average_over_blocks_counts_the_tokens_of_each_attention(name, layers) -> None:
    found = load(name)
    assert found.average(found.budget) == Fraction(sum(layers), 12) == Fraction(found.budget.average)


def _case(tokens: int, keep: int):
    from tokexport.graph_passes.compressors import Case

    return Case(tokens, 8, keep)


def test_the_average_over_the_encoder_counts_each_layer() -> None:
    found = load("vscan")
    # 23 layers: 6 with all tokens, 17 with half of them.
    assert found.average(found.budget) == Fraction(6 * 576 + 17 * 288, 23)
    assert Fraction(found.budget.average) == Fraction(8352, 23)


@pytest.mark.parametrize(
    ("name", "entering", "layers"),
    [
        # Tokens, and how many of 32 layers see them, as the papers count.
        ("apet-192", 288, [(288, 16), (96, 16)]),
        ("apet-128", 192, [(192, 16), (64, 16)]),
        ("apet-64", 96, [(96, 16), (32, 16)]),
        ("duet-192", 306, [(306, 16), (153, 8), (0, 8)]),
        ("duet-128", 201, [(201, 16), (100, 8), (0, 8)]),
        ("duet-64", 101, [(101, 16), (50, 8), (0, 8)]),
        ("sparsevlm-192", 576, [(576, 3), (300 + 9, 4), (200 + 4, 9), (110 + 3, 16)]),
        ("sparsevlm-128", 576, [(576, 3), (303 + 9, 4), (110 + 7, 9), (36 + 3, 16)]),
        ("sparsevlm-64", 576, [(576, 3), (66 + 16, 4), (30 + 2, 9), (17 + 1, 16)]),
        ("fastv", 576, [(576, 2), (288, 30)]),
        ("pyramiddrop", 576, [(576, 8), (288, 8), (144, 8), (72, 8)]),
        ("vscan-64", 96, [(96, 16), (32, 16)]),
    ],
)
def test_the_average_over_the_language_model_is_the_papers(name, entering, layers) -> None:
    found = load(name)
    wanted = Fraction(sum(tokens * count for tokens, count in layers), 32)
    assert found.entering(576) == entering == found.budget.entering
    assert found.average(found.budget) == wanted == Fraction(found.budget.average)
    said = name.rpartition("-")[2]
    if name.startswith("apet") or name.startswith("vscan"):
        assert wanted == int(said)
    if name.startswith("duet"):
        # With CLS, which the paper counts as one more.
        whole = Fraction(16 * (entering + 1) + 8 * ((entering + 1) // 2), 32)
        assert wanted < whole <= int(said) and whole > int(said) - 2


@pytest.mark.parametrize(
    ("name", "listed", "average"),
    [
        ("sparsevlm-192", [300, 200, 110], "191"),
        ("sparsevlm-128", [303, 110, 36], "126.25"),
        ("sparsevlm-64", [66, 30, 17], "62.125"),
    ],
)
def test_sparsevlm_keeps_what_the_code_lists_and_counts_its_clusters(name, listed, average) -> None:
    """The released sum has 2, 4, 10 and 16 layers, and only what is kept."""
    recipe = load(name)
    left = recipe.counts(576)
    kept = [step.made(k).counts(_case(n, k))[0] for step, k, n in zip(recipe.made(), left, [576, *left], strict=False)]
    assert kept == listed
    theirs = Fraction(sum(n * layers for n, layers in zip([576, *listed], (2, 4, 10, 16))), 32)
    assert theirs == Fraction(average) and f"{average} a layer" in recipe.budget.note


def test_steps_in_a_row_inside_the_encoder_are_averaged_in_their_order() -> None:
    steps = [{"method": "uniform", "seam": f"encoder_layer:{i}", "ratio": "1/2"} for i in (0, 0, 2)]
    recipe = Recipe(name="r", steps=steps)
    budget = Budget(model="m", tokens=16, entering=2, average="0", over="encoder", layers=4)
    assert recipe.counts(16) == [8, 4, 2]
    assert recipe.average(budget) == Fraction(16 + 4 + 4 + 2, 4)


def test_a_users_recipe_file_is_applied_in_every_form(two: Path) -> None:
    graph = toy_vit()
    found = run(compress(graph, recipe=two))
    assert found["kept_indices"].shape == (1, 4) and found["assignment"].shape == (1, 16)
    assert found["sizes"].sum() == 8
    inlined = run(compress(graph, recipe=str(two), form="inlined"))
    for name, array in found.items():
        np.testing.assert_array_equal(inlined[name], array)
    plugin = compress(graph, recipe=two, form="plugin")
    nodes = [node for node in plugin.graph if node.domain == "tokexport"]
    assert [node.op_type for node in nodes] == ["TokexportClsTopk", "TokexportVisionzip"]
    assert [node.attributes["keep"].value for node in nodes] == [8, 4] and not plugin.functions
    with pytest.raises(RequestError, match="holov"):
        compress(graph, recipe="vscan", form="plugin")


def test_settings_apply_to_every_step_that_has_them_or_to_one(two: Path) -> None:
    recipe = load(two)
    assert [step.compressor.attention for step in recipe.made({"attention": "received"})] == ["received"] * 2
    made = recipe.made({"2.attention": "received", "attention": "cls", "2.contextual": "1"})
    assert [step.compressor.attention for step in made] == ["cls", "received"]
    assert made[1].made(4).contextual == 1 and recipe.made()[1].made(8).contextual == 2
    for key in ("contxtual", "1.contextual", "3.attention", "2.basis"):
        with pytest.raises(RequestError, match="has no parameter"):
            recipe.made({key: "1"})


def test_options_that_a_recipe_sets_are_refused_with_it(two: Path) -> None:
    for how in ({"method": "apet"}, {"ratio": 0.5}, {"keep": 3}, {"seam": "auto"}):
        with pytest.raises(RequestError, match="together with --recipe"):
            compress(toy_vit(), recipe=two, **how)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TWO + "keepp = 3", "unknown key step 2, keepp"),
        ('sumary = ""' + TWO, "unknown key sumary"),
        ('[budget]\nmodel = "m"\n' + TWO, "no budget, tokens"),
        (TWO.replace('"visionzip"', '"visionzap"'), "unknown method 'visionzap'"),
        (TWO.replace('ratio = "1/2"', "", 1), "neither ratio nor keep"),
        (TWO.replace('ratio = "1/2"', 'ratio = "3/2"', 1), "outside (0, 1)"),
        (TWO.replace("contextual", "contxtual"), "contxtual in shares is not a parameter"),
        (TWO.replace('"1/4"', '"x"'), "'x' is not a number"),
        (TWO.replace("contextual", "merge"), "parameter merge of method 'visionzip' is 1"),
        (TWO + "params = { merge = 'sum' }", "parameter merge of method 'visionzip'"),
        (TWO + "params = { contextual = 2 }", "value in params too"),
        (TWO.replace("encoder_output", "encoder_layer:1/0", 1), "no share of the encoder's layers"),
        (TWO.replace("[[steps]]", "[steps", 1), "not TOML"),
        ("name = 'x'", "no steps"),
        ("steps = []", "at steps"),
        ("name = 'a/b'" + TWO, "at name"),
        (
            '[budget]\nmodel = "m"\ntokens = 16\nentering = 5\naverage = "4"\nover = "language model"\nlayers = 2\n'
            + TWO,
            "budget.entering is 5, but the steps leave 4 tokens",
        ),
        (
            '[budget]\nmodel = "m"\ntokens = 16\nentering = 4\naverage = "5"\nover = "language model"\nlayers = 2\n'
            + TWO,
            "budget.average is 5, but the steps average 4",
        ),
        (
            '[budget]\nmodel = "m"\ntokens = 16\nentering = 4\naverage = "x"\nover = "language model"\nlayers = 2\n'
            + TWO,
            "average 'x' is not a number",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RequestError) as error:
        load(tmp_path / "mine.toml")
    assert says in str(error.value) and "mine.toml" in str(error.value)


def test_an_unknown_name_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean vscan"):
        load("vscn")
    with pytest.raises(RequestError, match="cannot be read"):
        load(tmp_path / "mine.toml")


def test_a_count_fits_one_size_of_model_and_says_so(two: Path) -> None:
    two.write_text(TWO.replace('ratio = "1/2"', "keep = 64", 1))
    with pytest.raises(RequestError, match=r"keep 64 is outside 1..16 \(step 1, cls_topk\).*ratio ="):
        compress(toy_vit(), recipe=two)


def test_a_recipe_for_videos_says_what_it_lacks_on_a_picture() -> None:
    with pytest.raises(RequestError, match="needs the grid of the tokens") as error:
        compress(toy_vit(), recipe="lftr-8x")
    assert "grid=" in str(error.value)
    found = run(compress(toy_vit(), recipe="lftr-8x", params={"grid": "4x2x2"}))
    assert found["kept_indices"].shape == (1, 2)
