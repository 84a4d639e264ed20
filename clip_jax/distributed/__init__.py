"""Device meshes, multi-process start-up, and job detection under Slurm and Kubernetes."""
