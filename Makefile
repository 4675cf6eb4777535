# Wharf: build, try, test. `make help` lists the targets.

CARGO ?= cargo
PROGRAMS := runw wharf wharfd wharf-shim
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
UNITS := wharfd.service wharfd.socket wharf-pods.service
BUILT ?= target/release
BENCH ?=
RESULTS ?=
PREFIX ?= /usr/local
DESTDIR ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: build
build: ## Install what a build needs, and build the programs into target/release
	@scripts/install build
	$(CARGO) build --config .cargo/small.toml --profile small --locked --package wharf-runtime
	$(CARGO) build --release --locked --package wharf-supervisor
	@mkdir -p target/release
	@cd target/release && ln -f ../$(HOST)/small/runw ../$(HOST)/small/wharf-shim ../$(HOST)/release/wharf ../$(HOST)/release/wharfd .

.PHONY: demo
demo: build ## Show the main job on a throwaway node
	@scripts/install demo
	@scripts/demo target/release

.PHONY: test
test: ## Install what the tests need, and run every test, unit and privileged
	@scripts/install build
	@scripts/install test
	@scripts/test

.PHONY: vm
vm: ## Run the privileged suites in throwaway VMs: a stock kernel, pure cgroup v2
	@scripts/install build
	@scripts/install test
	@scripts/test vm

.PHONY: vm-critest
vm-critest: ## Run all of critest in a throwaway VM: systemd, pure cgroup v2, AppArmor
	@scripts/install build
	@scripts/install test
	WHARF_VM_CRITEST=all scripts/test vm critest::

.PHONY: vm-all
vm-all: ## The same on every kernel of vm-tests/packages.lock
	@scripts/install build
	@scripts/install test
	for kernel in $$(sed -n 's/^kernel \([^ ]*\) .*/\1/p' vm-tests/packages.lock); do \
		WHARF_VM_KERNEL=$$kernel scripts/test vm || exit 1; \
	done

.PHONY: kubelet
kubelet: ## Build a stock kubelet, which takes minutes, and run it over throwaway nodes
	@scripts/install build
	@scripts/install test
	@scripts/go-tools target/tools kubelet
	$(CARGO) build --locked --package wharf-runtime --bins
	WHARF_TEST_TOOLS=$$PWD/target/tools $(CARGO) test --locked --package wharf-supervisor --test kubelet

.PHONY: power
power: ## Cut the power of a working node 500 times (WHARF_POWER_CUTS), and look at its stores after each
	@scripts/install build
	@scripts/install vm
	WHARF_POWER_CUTS=$${WHARF_POWER_CUTS:-500} $(CARGO) test --locked --workspace --test guests -- --nocapture power::

.PHONY: vagrant-box
vagrant-box: build ## Build target/vagrant/wharf.box, for vagrant with libvirt
	@scripts/install vagrant
	@scripts/vagrant-box

.PHONY: vagrant-check
vagrant-check: ## Have vagrant take the box, and boot it once
	@scripts/install vagrant
	@scripts/vagrant-check

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZ_SECONDS (60)
	@scripts/install build
	@scripts/install fuzz
	@scripts/fuzz

.PHONY: bench
bench: build ## Measure ours and its peers side by side (BENCH=NAME for some; RESULTS=docs/benchmarks to keep them)
	@scripts/install bench
	@scripts/bench $(if $(RESULTS),--results $(RESULTS)) $(BENCH)

.PHONY: soak
soak: ## Create, run and delete 2,000 containers, eight at a time, and look for what is left
	@scripts/install test
	WHARF_CYCLES=2000 $(CARGO) test --locked --package wharf-runtime --test runw_cycles -- --show-output

.PHONY: check
check: ## Format, lints, licences and advisories of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny --root target/tools
	PATH="$$PWD/target/tools/bin:$$PATH" $(CARGO) deny check

.PHONY: install
install: ## Install the programs built before, and the units of systemd, under PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	for program in $(PROGRAMS); do install -m 0755 $(BUILT)/$$program $(DESTDIR)$(PREFIX)/bin/; done
	for unit in $(UNITS); do \
		sed 's|@BINDIR@|$(PREFIX)/bin|' systemd/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; \
	done

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean
