"""Which runs to train next: registered forecasts, designs, comparisons."""
