# What the tests of the quorum driver share
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# All but cases.py, namespaces.py and nfs.py do without iotests, so that other
# programs can use them.
