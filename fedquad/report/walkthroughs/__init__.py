"""What the walkthroughs let a reader move: pure functions to a figure, and sliders over them."""
