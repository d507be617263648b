# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
