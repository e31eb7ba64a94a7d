"""The evaluations, a module each (`spae.eval.run.Task`)."""
