"""The libraries that can run a model file, behind one small protocol, `base.Backend`; `opening` finds the right one."""
