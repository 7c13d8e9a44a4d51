# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each target runs a script of tools/, whose manual is the comment at its head.
# All that is made lands in build/; removing that folder is safe, but for what you
# have committed in build/qemu and not written back with "make patches".
#
# Variables:
#   SOAK=TEST...     soak: these only (all)
#   HOURS=N          soak: end after that time (never); a fraction is fine
#   SECONDS_EACH=N   soak, fuzz: for each test (120), for each harness (15)
#   FUZZ=HARNESS...  fuzz: these only (all); --merge keeps what was found
#   ROWS=ROW...      bench: these only (all)
#   TEXT=FILE        check-docs: this one only (all)
#   DEBIAN=12|13     check-docs: in a minimal installation of that release
#   MUTANTS=NAME...  check-mutants: these only (all)
#   prefix=DIR       install: where to (/usr/local)
#   KIND=lean        install: what "make" has built, not what "make full" has
#   MIRROR=URL       the Debian mirror to fetch from (the one that apt uses here)
#   BASE=SERIES      another release series of QEMU:
#
# The release series of QEMU that the patches are made for is the line "primary="
# in tools/lib.sh.  With BASE=10.2, each target does the same on that one, in
# build/10.2; compat/10.2.patch is all that is different there.

prefix ?= /usr/local
primary := $(shell sed -n 's/^primary=//p' tools/lib.sh)
build := build$(addprefix /,$(filter-out $(primary),$(BASE)))
export BASE MIRROR HOURS SECONDS_EACH

all: packages           ## build QEMU with our driver into build/bin
	@tools/build ours

full: packages          ## build, beside it, a QEMU with all that Debian's has
	@tools/setup full
	@tools/build full

demo: all               ## boot a guest from a quorum with a bad server and a dead one
	@tools/demo/demo.sh

check: packages         ## build, then run the tests that CI runs
	@tools/check

check-full: full        ## boot a guest on the full QEMU under libvirt, with UEFI
	@tools/check full

soak: packages          ## the random tests, for long: until one fails
	@tools/soak $(SOAK)

hazards: base all       ## what pristine QEMU's driver does wrong, and ours doesn't
	@tools/hazards

bench: base all         ## our driver against the pristine one and a raw child
	@tools/bench/bench.py $(build) $(ROWS)

base: packages          ## build pristine QEMU into build/base/bin
	@tools/build base

patches:                ## write the commits of build/qemu back to patches/
	@tools/patches write

series: all             ## make build/series/*/*.patch, as they would be mailed
	@tools/patches series

debian-patches: all     ## the series as Debian's packaging takes it
	@tools/patches debian --check

deb: packages           ## build Debian's packages with the series (20 minutes)
	@tools/deb

check-series: packages  ## build and test each patch of the series by itself
	@tools/patches each

check-mutants: packages ## break each promise, and see that a test notices
	@tools/mutants $(MUTANTS)

check-san: packages     ## run unit tests and iotests with sanitizers
	@tools/check asan tsan

coverage: packages      ## which lines of ours no test reaches
	@tools/check coverage

check-docs: packages    ## run what README and the manuals say, all of it
	@$(if $(DEBIAN),tools/debian $(DEBIAN) make check-docs TEXT=$(TEXT),tools/check-docs --all $(TEXT))

check-tsa:              ## clang's thread-safety analysis of block/
	@tools/setup packages clang-19 libclang-rt-19-dev
	@tools/build fuzz libblock.a

fuzz:                   ## libFuzzer on parser, voting and whole nodes: a minute
	@tools/setup packages clang-19 libclang-rt-19-dev
	@tools/fuzz $(FUZZ)

install:                ## after make, or make full: install that into $(prefix)
	@tools/install '$(prefix)' $(KIND)

update:                 ## look for a newer point release of QEMU
	@tools/setup packages
	@tools/setup fetch --refresh
	@[ ! -e build/full ] || tools/setup ovmf --refresh

packages:
	@tools/setup packages

help:                   ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 16
	@printf '\nall of them on another QEMU: %s\n' \
	    "$$(cd compat && ls | sed -nE 's/(.*)\.patch/make BASE=\1 .../p')"

.PHONY: all full demo check check-full soak hazards bench base patches series
.PHONY: check-series debian-patches deb check-mutants check-san check-docs check-tsa
.PHONY: coverage fuzz install update packages help
