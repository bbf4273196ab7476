"""Who trains: a subprocess here, a queue in PostgreSQL, Kubeflow Pipelines, Airflow, or any service behind a webhook.

A runner only has a job done. What it reads, and what may be made of what it leaves, is the same for all of them and
stands in ``publishing_trainer.py``. Fails closed: what cannot be checked is not published.
"""
