"""From a verdict to a better version: train on what came after the change, compare, promote or refuse.

Fails closed where it matters: a version that was not shown to be better is never put where a model server looks.
"""
