"""The sections of a company's settings that fill a module of their own; `config` puts all of them together."""
