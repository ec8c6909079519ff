package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	fakeclient "sigs.k8s.io/controller-runtime/pkg/client/fake"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/fake"
	"sigs.k8s.io/karpenter/pkg/controllers/provisioning/scheduling"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/events"
	"sigs.k8s.io/karpenter/pkg/operator/injection"
	"sigs.k8s.io/karpenter/pkg/operator/options"
	"sigs.k8s.io/karpenter/pkg/test"
	nodepools "sigs.k8s.io/karpenter/pkg/utils/nodepool"
)

// Outcome is what a planner says of a scenario; both write the same form.
type Outcome struct {
	// Setup and Solve are CPU seconds of this process: building what the scheduler plans from, and
	// planning.
	Setup float64 `json:"setup"`
	Solve float64 `json:"solve"`
	// SolveWall is the wall time of planning, in seconds.
	SolveWall float64 `json:"solveWall"`
	// Nodes to buy.
	Nodes []Bought `json:"nodes"`
	// Existing nodes that get pods.
	Existing []Existing `json:"existing"`
	// Unplaced pods, with a reason.
	Unplaced map[string]string `json:"unplaced"`
}

// Usage is what the whole process used, start-up, reading and writing included: a line of its own after
// the outcome.
type Usage struct {
	// Total is CPU seconds.
	Total float64 `json:"total"`
	// PeakBytes is the most memory that was resident.
	PeakBytes int64 `json:"peakBytes"`
}

// Bought is a node to buy: the cheapest of all types and offerings that are left for it.
type Bought struct {
	Pool         string   `json:"pool"`
	Type         string   `json:"type"`
	Zone         string   `json:"zone"`
	CapacityType string   `json:"capacityType"`
	Price        float64  `json:"price"`
	Zones        []string `json:"zones"`
	Pods         []string `json:"pods"`
}

// Existing is a node that is there, with the pods meant for it.
type Existing struct {
	Node string   `json:"node"`
	Pods []string `json:"pods"`
}

// solve runs Karpenter's scheduling simulation once.
func solve(scenario *Scenario) (*Outcome, error) {
	ctx := options.ToContext(injection.WithControllerName(context.Background(), "provisioner"), test.Options())
	opts := []scheduling.Options{scheduling.NumConcurrentReconciles(5)}
	if scenario.Preferences == "ignore" {
		opts = append(opts, scheduling.IgnorePreferences)
	}
	began := cpu()
	scheduler, err := newScheduler(ctx, scenario, opts)
	if err != nil {
		return nil, err
	}
	outcome := &Outcome{Setup: cpu() - began, Unplaced: map[string]string{}}
	began, wall := cpu(), time.Now()
	results, err := scheduler.Solve(ctx, scenario.Pods)
	if err != nil {
		return nil, err
	}
	outcome.Solve, outcome.SolveWall = cpu()-began, time.Since(wall).Seconds()
	for _, claim := range results.NewNodeClaims {
		outcome.Nodes = append(outcome.Nodes, bought(claim))
	}
	for _, node := range results.ExistingNodes {
		if len(node.Pods) > 0 {
			outcome.Existing = append(outcome.Existing, Existing{Node: node.Name(), Pods: names(node.Pods)})
		}
	}
	for pod, why := range results.PodErrors {
		outcome.Unplaced[client.ObjectKeyFromObject(pod).String()] = why.Error()
	}
	return outcome, nil
}

func newScheduler(ctx context.Context, scenario *Scenario, opts []scheduling.Options) (*scheduling.Scheduler, error) {
	provider := fake.NewCloudProvider()
	provider.InstanceTypes = scenario.instanceTypes()
	types := map[string][]*cloudprovider.InstanceType{}
	for _, pool := range scenario.NodePools {
		types[pool.Name] = provider.InstanceTypes
		if pool.Spec.Template.Spec.NodeClassRef == nil {
			pool.Spec.Template.Spec.NodeClassRef = &v1.NodeClassReference{Name: "default"}
		}
	}
	nodepools.OrderByWeight(scenario.NodePools)
	builder := fakeclient.NewClientBuilder().WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string {
		return []string{o.(*corev1.Pod).Spec.NodeName}
	})
	for _, namespace := range []string{"default", "other"} {
		object := &corev1.Namespace{}
		object.Name = namespace
		object.Labels = map[string]string{corev1.LabelMetadataName: namespace}
		builder.WithObjects(object)
	}
	for _, node := range scenario.Nodes {
		builder.WithObjects(node)
	}
	for _, pod := range scenario.Bound {
		builder.WithObjects(pod)
	}
	objects := builder.Build()
	cluster := state.NewCluster(&clock.RealClock{}, objects, provider)
	for _, node := range scenario.Nodes {
		if err := cluster.UpdateNode(ctx, node); err != nil {
			return nil, err
		}
	}
	for _, pod := range scenario.Bound {
		if err := cluster.UpdatePod(ctx, pod); err != nil {
			return nil, err
		}
	}
	nodes := cluster.DeepCopyNodes().Active()
	topology, err := scheduling.NewTopology(ctx, objects, cluster, nodes, scenario.NodePools, types, scenario.Pods, opts...)
	if err != nil {
		return nil, err
	}
	return scheduling.NewScheduler(
		ctx, objects, scenario.NodePools, cluster, nodes, topology, types, scenario.Daemons,
		events.NewRecorder(&record.FakeRecorder{}), &clock.RealClock{}, nil, nil, opts...,
	), nil
}

// bought is the cheapest of what is left to choose from; of equal prices the first by type, zone and
// capacity type.
func bought(claim *scheduling.NodeClaim) Bought {
	node := Bought{Pool: claim.NodePoolName, Price: -1, Pods: names(claim.Pods)}
	better := func(price float64, kind, zone, capacityType string) bool {
		if node.Price < 0 || price != node.Price {
			return node.Price < 0 || price < node.Price
		}
		if kind != node.Type {
			return kind < node.Type
		}
		if zone != node.Zone {
			return zone < node.Zone
		}
		return capacityType < node.CapacityType
	}
	for _, kind := range claim.InstanceTypeOptions {
		for _, offering := range kind.Offerings.Available().Compatible(claim.Requirements) {
			zone, capacityType := offering.Zone(), offering.CapacityType()
			if !slices.Contains(node.Zones, zone) {
				node.Zones = append(node.Zones, zone)
			}
			if better(offering.Price, kind.Name, zone, capacityType) {
				node.Type, node.Zone, node.CapacityType, node.Price = kind.Name, zone, capacityType, offering.Price
			}
		}
	}
	slices.Sort(node.Zones)
	return node
}

func names(pods []*corev1.Pod) []string {
	var names []string
	for _, pod := range pods {
		names = append(names, client.ObjectKeyFromObject(pod).String())
	}
	slices.Sort(names)
	return names
}

// cpu is the CPU time of this process in seconds, of all its threads.
func cpu() float64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &at); err != nil {
		panic(err)
	}
	return float64(at.Sec) + float64(at.Nsec)/1e9
}

// peak is the most memory that was resident, in bytes; 0 where the kernel does not say.
func peak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
