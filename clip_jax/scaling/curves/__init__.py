"""Laws of whole learning curves: from rates and losses of some schedules to the losses of others."""
