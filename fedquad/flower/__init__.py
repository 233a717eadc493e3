"""FedQuad as a Flower app; see `fedquad.flower.__main__` for the commands."""
