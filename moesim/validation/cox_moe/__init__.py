"""Published results of CoX-MoE: its ablation, and its gains over two systems on three machines with three models."""
