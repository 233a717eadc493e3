import pytest

from fedquad.cost.layer_costs import LayerCosts


@pytest.fixture
def costs():
    """Of a model of 12 layers that needs 500 bytes, and 100 more for each trained layer."""
    return LayerCosts(
        num_layers=12,
        fixed_bytes=500,
        bytes_per_lora_layer=100,
        bytes_saved_per_quantized_layer=58,
        forward_flops=1200,
        flops_per_lora_layer=60,
        flops_per_quantized_layer=40,
    )
