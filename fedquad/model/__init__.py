"""Any encoder, its transformer layers, and LoRA on a chosen depth of them."""
