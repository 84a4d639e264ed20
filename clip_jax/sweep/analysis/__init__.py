"""What the runs of a sweep say: report, forecast, rules, next runs."""
