"""Settings for edits on the demo model, shared by templates and benchmarks."""

from __future__ import annotations

# Part edits. Colours are decided early: even steps spend more of them there than Karras's, the changed word keeps its
# own attention, and strong guidance and a mask that fills early hold against the colour of the rest of the object.
# How they were chosen: bench/results/notes.md.
CFG, OMEGA, SCHEDULER, CHANGED_WORDS = 7.5, 0.5, "normal", 0.0
# Part edits and edits of several objects.
STEPS = 25
