"""What a site does."""

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import accuracy, fit, load

app = ClientApp()


def _model(message):
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def _rows(context):
    config = context.node_config
    return load(config["partition-id"], config["num-partitions"])


@app.train()
def train(message, context):
    """Trains on the rows that are here."""
    x, y = _rows(context)
    config = context.run_config
    model = fit(_model(message), x, y, config["local-steps"], config["learning-rate"])
    content = RecordDict(
        {
            "arrays": ArrayRecord({k: Array(v) for k, v in model.items()}),
            "metrics": MetricRecord({"num-examples": len(x)}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message, context):
    """Measures the model on the rows that are here."""
    x, y = _rows(context)
    metrics = {"accuracy": accuracy(_model(message), x, y), "num-examples": len(x)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
