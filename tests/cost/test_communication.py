import pytest
from transformers import AutoModelForSequenceClassification

from fedquad.config import InputError
from fedquad.cost.accounting import step_cost
from fedquad.cost.communication import (
    MNLI_LOCAL_STEPS,
    NETWORK_RATES_MBIT_S,
    round_share,
    round_traffic,
    transfer_time_s,
)
from fedquad.model.adapter import Adapter
from fedquad.model.backbone import architecture
from fedquad.model.lora import attach_lora


def test_lora_traffic_is_the_adapter_of_a_real_model(small_model):
    folder = small_model("roberta")
    config = architecture(folder)
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config)
    parameters = model.num_parameters()
    adapter = Adapter.from_model(attach_lora(model, rank=4, alpha=4, fresh_modules=("classifier",)))
    whole = round_traffic(folder, lora_rank=4)
    assert whole.download_bytes == whole.upload_bytes == adapter.num_bytes
    assert whole.parameters == parameters
    some = round_traffic(folder, lora_rank=4, trainable_layers=(1, 3))
    assert some.download_bytes == adapter.num_bytes
    assert some.upload_bytes == adapter.layers((1, 3)).num_bytes
    assert some.total_bytes == some.download_bytes + some.upload_bytes
    full = round_traffic(folder, tuning="full")
    assert full.upload_bytes == full.download_bytes == 4 * parameters
    assert full.trainable_share == 1


def test_lora_against_full_at_the_papers_scale():
    lora, full = (round_traffic("roberta-large", tuning=t) for t in ("lora", "full"))
    assert lora.trainable_share < 0.01
    assert full.total_bytes / lora.total_bytes > 100
    # r (in + out) of query and value in 24 layers; the head's dense and output layers
    head = 1024 * 1024 + 1024 + 1024 * 3 + 3
    assert lora.trainable_parameters == 24 * 2 * 16 * (1024 + 1024) + head
    assert full.parameters == lora.parameters


def test_transfer_time_is_bits_over_rate():
    assert transfer_time_s(3_000_000, 3.0) == 8.0
    assert transfer_time_s(0, 20.0) == 0.0


@pytest.mark.parametrize(("num_bytes", "rate"), [(-1, 3.0), (1, 0.0), (1, float("inf"))])
def test_bad_transfers_are_refused(num_bytes, rate):
    with pytest.raises(InputError):
        transfer_time_s(num_bytes, rate)


def test_share_of_a_round(small_model):
    folder = small_model("bert")
    speed = 1e9
    step = step_cost(folder, batch_size=2, length=16)
    for network, rate in NETWORK_RATES_MBIT_S.items():
        part = round_share(folder, flops_per_second=speed, network=network, batch_size=2, length=16)
        sending = part.traffic.total_bytes * 8 / (rate * 1e6)
        computing = MNLI_LOCAL_STEPS * step.total_flops / speed
        assert part.communication_time_s == pytest.approx(sending)
        assert part.compute_time_s == pytest.approx(computing)
        assert part.share == pytest.approx(sending / (sending + computing))
    own = round_share(
        folder,
        flops_per_second=speed,
        network="wire",
        rate_mbit_s=1000.0,
        tuning="full",
        batch_size=2,
        length=16,
    )
    assert own.tuning == "full"
    assert own.rate_mbit_s == 1000.0


@pytest.mark.parametrize(
    "arguments",
    [{"network": "5G"}, {"flops_per_second": 0}, {"local_steps": 0}, {"rate_mbit_s": -1.0}],
)
def test_bad_rounds_are_refused(arguments, small_model):
    with pytest.raises(InputError, match=next(iter(arguments))):
        round_share(
            small_model(), **{"flops_per_second": 1e9, "network": "3G", "length": 16, **arguments}
        )
