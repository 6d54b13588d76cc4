# Reads make's command line for the Makefile: nothing else sets a variable, and a value is the text that was typed.

quote = '$(subst ','\'',$1)'
names = $(sort $(foreach target,$1,$(foreach pair,$($(target).takes),$(lastword $(subst =, ,$(pair))))))
goals := $(or $(MAKECMDGOALS),help)
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))

# make would expand a `$` in a value, and would take variables from the shell's environment or its own, such as GET.
literal = $(eval override $1 := $$(value $1))
$(foreach name,$(given),$(call literal,$(name)))
$(foreach name,VENV PYTHON,$(if $(filter environment,$(origin $(name))),$(call literal,$(name))))
$(foreach name,$(filter-out $(given),$(call names,$(TARGETS))),$(eval override $(name) :=))
ifdef DATA_ROOT
export DATA_ROOT
endif
MAKEOVERRIDES =

# Targets and variables that are not there. Completion in a shell asks for .DEFAULT or .PHONY, with a variable __….
python = $(call quote,$(PYTHON)) -I benchmarks/make_words.py
everywhere = VENV PYTHON PY READY DATA_ROOT
ifneq ($(filter-out $(TARGETS) .%,$(goals))$(filter-out $(call names,$(goals)) $(everywhere) __%,$(given)),)
table = $(foreach target,$(TARGETS),$(call quote,$(target) $(call names,$(target)) $(everywhere)))
$(error $(shell $(python) mistake $(call quote,$(goals)) $(call quote,$(given)) $(table)))
endif

define newline


endef
$(foreach name,$(filter-out ARGS,$(given)),$(if $(findstring $(newline),$($(name))),$(error $(name): has several lines)))
hash := \#
unfit = $(word 2,$(VENV))$(foreach sign,; | : % $(hash),$(findstring $(sign),$(VENV)))
$(if $(strip $(unfit)),$(error VENV=$(VENV): make cannot work with a path that has a blank or one of ; | : % $(hash)))

ifneq ($(ARGS),)
override ARGS := $(shell $(python) split $(call quote,$(ARGS)))
$(if $(filter-out 0,$(.SHELLSTATUS)),$(error ARGS cannot be split into words))
endif

# The words for a target's program: key='value' of every pair key=VARIABLE that is given, then ARGS.
set := $(foreach name,$(given),$(if $($(name)),$(name)))
key_value = $(firstword $1)=$(call quote,$($(lastword $1)))
key_values = $(foreach pair,$(filter $(addprefix %=,$(set)),$1),$(call key_value,$(subst =, ,$(pair))))
WORDS = $(call key_values,$($@.takes)) $(if $(filter ARGS,$($@.takes)),$(ARGS))
