"""Recipes as a person writes them, and what follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.tuning.recipes import DEFAULT_RECIPES, FORM, MOST_ROW_EPOCHS, Recipe, epochs_of, rate_of, read_recipes


@pytest.mark.parametrize(
    ("text", "recipes"),
    [
        (DEFAULT_RECIPES, [Recipe(1), Recipe(2), Recipe(4)]),
        ("2", [Recipe()]),
        (" 1.5 : 0.25 ,", [Recipe(1.5, 0.25)]),
        ("0:0", [Recipe(0, 0)]),
        ("2:focal", [Recipe(anchor="focal")]),
        ("2:kl, 2:0.5:kl", [Recipe(), Recipe(strength=0.5)]),
        ("3:1:focal:rate=1e-4:epochs=7", [Recipe(3, 1, "focal", 1e-4, 7)]),
        ("3:epochs=7: rate=0.5", [Recipe(3, rate=0.5, epochs=7)]),
        ("2,2:epochs=15", [Recipe(), Recipe(epochs=15)]),
    ],
)
def test_reading(text, recipes):
    assert read_recipes(text) == tuple(recipes)


numbers = st.floats(0, 100_000)
recipes_of_any_kind = st.builds(
    Recipe,
    numbers,
    numbers,
    st.sampled_from(["kl", "focal"]),
    st.none() | st.floats(0, 1, exclude_min=True),
    st.none() | st.integers(1, 10_000),
)


@given(st.lists(recipes_of_any_kind, min_size=1, max_size=4, unique=True))
def test_a_name_says_everything(recipes):
    names = [recipe.name for recipe in recipes]
    assert read_recipes(",".join(names)) == tuple(recipes)
    assert len(set(names)) == len(names)


def test_names():
    assert [recipe.name for recipe in read_recipes("1,2:0.5,4:1:focal:rate=3e-4:epochs=5")] == [
        *("1:1", "2:0.5", "4:1:focal:rate=0.0003:epochs=5")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipes are '', expected at least one, as in 1,2,4"),
        (" , ", "recipes are ' , ', expected at least one, as in 1,2,4"),
        ("1,2,1:1", "recipe 1:1 is there twice, expected each once"),
        ("much", f"recipe 'much' cannot be read, expected {FORM}"),
        ("1:2:3", f"recipe '1:2:3' cannot be read, expected {FORM}"),
        ("1:", f"recipe '1:' cannot be read, expected {FORM}"),
        ("1:speed=2", f"recipe '1:speed=2' cannot be read, expected {FORM}"),
        ("1:rate=", f"recipe '1:rate=' cannot be read, expected {FORM}"),
        ("1:epochs=1.5", f"recipe '1:epochs=1.5' cannot be read, expected {FORM}"),
        ("1:kl=2", f"recipe '1:kl=2' cannot be read, expected {FORM}"),
        ("1:kl:focal", f"recipe '1:kl:focal' cannot be read, expected {FORM}"),
        ("1:rate=0.1:rate=0.2", f"recipe '1:rate=0.1:rate=0.2' cannot be read, expected {FORM}"),
        ("1:epochs=1:epochs=1", f"recipe '1:epochs=1:epochs=1' cannot be read, expected {FORM}"),
        ("focal:rate=1", f"recipe 'focal:rate=1' has no class weight, expected {FORM}"),
        ("-1", "class weight of a recipe is -1, expected 0 to 100000"),
        ("nan", "class weight of a recipe is nan, expected 0 to 100000"),
        ("1:inf", "anchor strength of a recipe is inf, expected 0 to 100000"),
        ("1:rate=0", "rate of a recipe is 0, expected more than 0 and at most 1"),
        ("1:rate=1.5", "rate of a recipe is 1.5, expected more than 0 and at most 1"),
        ("1:rate=nan", "rate of a recipe is nan, expected more than 0 and at most 1"),
        ("1:epochs=0", "epochs of a recipe are 0, expected 1 to 10000"),
        ("1:epochs=10001", "epochs of a recipe are 10001, expected 1 to 10000"),
    ],
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(InputError) as caught:
        read_recipes(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rows", "epochs"), [(0, 15), (1, 15), (1000, 15), (3000, 10), (10_000, 6), (60_000, 2), (150_000, 1), (10**9, 1)]
)
def test_epochs_follow_from_the_rows(rows, epochs):
    assert epochs_of(Recipe(), rows) == epochs
    assert epochs_of(Recipe(epochs=3), rows) == 3


@given(st.integers(1, 10**7))
def test_rows_and_epochs_have_a_bound(rows):
    assert 1 <= epochs_of(Recipe(), rows) <= 15
    assert epochs_of(Recipe(), rows) == 1 or rows * epochs_of(Recipe(), rows) <= MOST_ROW_EPOCHS
    assert epochs_of(Recipe(), rows + 1) <= epochs_of(Recipe(), rows)


def test_rates_follow_from_the_layers():
    assert [rate_of(Recipe(), layers) for layers in (1, 2, 3)] == [3e-3, 9e-4, 9e-4]
    assert rate_of(Recipe(rate=0.5), 1) == rate_of(Recipe(rate=0.5), 2) == 0.5
