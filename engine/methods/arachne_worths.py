"""Arachne with three worths of a positive, of which rows of validation choose; the first is Arachne's own."""

from __future__ import annotations

from dataclasses import replace

from engine.methods.arachne import METHOD as ARACHNE
from engine.methods.weight_search import WORTHS, WeightSearch
from engine.search.loop import SearchSettings

METHOD = replace(ARACHNE, name="Arachne-worths", repair=WeightSearch(SearchSettings(), worths=WORTHS))
