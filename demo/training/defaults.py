"""Settings of edits on the demo model that its templates, benchmarks and figures share."""

from __future__ import annotations

# Part edits. Colours are decided early: even steps spend more of them there than Karras's, the changed word keeps its
# own attention, and strong guidance and a mask that is soon full hold against the colour of the rest of the object.
# Omega was chosen on 25 edits that are not among the sixty (numbers 12 to 16 of each token), the others on the first
# two or three of each token.
CFG, OMEGA, SCHEDULER, CHANGED_WORDS = 7.5, 0.5, "normal", 0.0
# Part edits and edits of several objects.
STEPS = 25
