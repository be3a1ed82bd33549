"""The networks. A model is a YAML file in configs/model that names classes of these modules."""
