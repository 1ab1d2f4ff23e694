"""The content of an MLflow store."""

from pipeline.mlflow_view.sync import EXPERIMENT


def runs_of(uri, dataset="shapes-vis"):
    """A client, and the runs of this test's dataset by run_key; the server may hold others."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.dataset = '{dataset}'") if experiment else []
    by_key = {run.data.tags["run_key"]: run for run in found}
    assert len(by_key) == len(found), "a key is there twice"
    return client, by_key


def steps_of(client, run, name="loss"):
    return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name))
