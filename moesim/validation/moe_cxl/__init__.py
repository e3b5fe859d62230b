"""Published claims of MoE-CXL: what each comes to on its devices, and on what it depends."""
