"""OIR: Yang et al., "Object-Aware Inversion and Reassembly for Image Editing" (2023)."""
