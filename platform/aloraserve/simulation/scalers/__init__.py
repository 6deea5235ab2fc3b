"""Autoscalers of other projects, by their published rules, as :class:`~aloraserve.scaling.base.Scaler`."""
