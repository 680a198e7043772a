"""The laboratory: data sets, runs, studies, reports and the command line; needs ``maxl-torch[experiments]``."""
