// Karpenter's own scheduling simulation, without a cluster, as its benchmark drives it: an in-memory
// client, one scheduler, one Solve. `cargo xtask bench plan` builds it and runs Headstart's planner on
// the same files.
//
//	karpenter generate diverse|preferences COUNT   writes a scenario
//	karpenter solve FILE                           plans it once and writes the outcome
//	karpenter solve-all FILE OUT FILE OUT …        plans many in one process; no times worth reading
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	log.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "generate":
		count, err := strconv.Atoi(args[2])
		if err != nil || count < 1 {
			return fmt.Errorf("%q is no number of pods", args[2])
		}
		scenario, err := generate(args[1], count)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(scenario)
	case len(args) == 2 && args[0] == "solve":
		return solveFile(args[1], os.Stdout)
	case len(args) > 1 && len(args)%2 == 1 && args[0] == "solve-all":
		for i := 1; i < len(args); i += 2 {
			out, err := os.Create(args[i+1])
			if err != nil {
				return err
			}
			if err := solveFile(args[i], out); err != nil {
				return fmt.Errorf("%s: %w", args[i], err)
			}
			if err := out.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("use: generate KIND COUNT | solve FILE | solve-all FILE OUT …")
}

func solveFile(path string, out *os.File) error {
	scenario, err := readScenario(path)
	if err != nil {
		return err
	}
	outcome, err := solve(scenario)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	if err := encoder.Encode(outcome); err != nil {
		return err
	}
	return encoder.Encode(Usage{Total: cpu(), PeakBytes: peak()})
}
