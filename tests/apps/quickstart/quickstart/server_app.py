"""What the server does: nothing but Flower's own FedAvg."""

from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart.task import initial

app = ServerApp()


@app.main()
def main(grid, context):
    """Trains for some rounds, and prints how good the model has become."""
    config = context.run_config
    nodes = config["min-nodes"]
    strategy = FedAvg(
        fraction_train=1.0,
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes,
        min_available_nodes=nodes,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({k: Array(v) for k, v in initial().items()}),
        num_rounds=config["num-server-rounds"],
    )
    final = result.evaluate_metrics_clientapp[config["num-server-rounds"]]
    print(f"accuracy after {config['num-server-rounds']} rounds: {final['accuracy']:.4f}")
