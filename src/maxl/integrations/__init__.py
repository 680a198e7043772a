"""maxl in other people's loops: each module imports its library, and nothing else does.

``maxl.integrations.sklearn`` has estimators for tables, ``maxl.integrations.lightning`` a module for a Trainer,
``maxl.integrations.transformers`` a Trainer.
"""
