package main

import (
	"fmt"
	"math/rand"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
)

// draws makes the random choices of Karpenter's benchmark, in its order, from its seed. What it does
// not draw from that source, the UIDs, comes from a second one, so that every run has the same.
type draws struct {
	source *rand.Rand
	uids   *rand.Rand
}

func newDraws() *draws {
	return &draws{source: rand.New(rand.NewSource(42)), uids: rand.New(rand.NewSource(1))}
}

func pick[T any](source *rand.Rand, of []T) T { return of[source.Intn(len(of))] }

func (d *draws) label(key string) map[string]string {
	return map[string]string{key: pick(d.source, []string{"a", "b", "c", "d", "e", "f", "g"})}
}

// pod draws CPU, then memory, as the benchmark's literals are evaluated.
func (d *draws) pod(number int, labels map[string]string) *corev1.Pod {
	cpu := pick(d.source, []string{"100m", "250m", "500m", "1", "1500m"})
	memory := pick(d.source, []string{"100Mi", "256Mi", "512Mi", "1Gi", "2Gi", "4Gi"})
	requests := map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory}
	return d.named(number, labels, requests)
}

func (d *draws) named(number int, labels map[string]string, requests map[corev1.ResourceName]string) *corev1.Pod {
	uid := fmt.Sprintf("%08x-%04x-4000-8000-%012x", d.uids.Uint32(), number&0xffff, d.uids.Int63n(1<<48))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("pod-%05d", number),
			Namespace: "default",
			UID:       types.UID(uid),
			Labels:    labels,
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name:      "main",
			Image:     "pause",
			Resources: corev1.ResourceRequirements{Requests: quantities(requests)},
		}}},
	}
}

// generate is the benchmark's input: "diverse" or "preferences".
func generate(kind string, count int) (*Scenario, error) {
	scenario := &Scenario{
		Preferences: "respect",
		Types:       benchmarkTypes(400),
		NodePools: []*v1.NodePool{{
			ObjectMeta: metav1.ObjectMeta{Name: "default"},
			Spec: v1.NodePoolSpec{Limits: v1.Limits(quantities(map[corev1.ResourceName]string{
				corev1.ResourceCPU:    "10000000",
				corev1.ResourceMemory: "10000000Gi",
			}))},
		}},
	}
	switch kind {
	case "diverse":
		scenario.Pods = newDraws().diverse(count)
	case "preferences":
		scenario.Pods = newDraws().preferring(count)
	default:
		return nil, fmt.Errorf("no kind of pods %q: use diverse or preferences", kind)
	}
	return scenario, nil
}

// diverse pods come in five equal parts; what does not divide is generic.
func (d *draws) diverse(count int) []*corev1.Pod {
	part := count / 5
	var pods []*corev1.Pod
	add := func(n int, one func() *corev1.Pod) {
		for range n {
			pods = append(pods, one())
		}
	}
	generic := func() *corev1.Pod { return d.pod(len(pods), d.label("my-label")) }
	spread := func(key string) func() *corev1.Pod {
		return func() *corev1.Pod {
			labels, selected := d.label("my-label"), d.label("my-label")
			pod := d.pod(len(pods), labels)
			pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew:           1,
				TopologyKey:       key,
				WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector:     &metav1.LabelSelector{MatchLabels: selected},
			}}
			return pod
		}
	}
	add(part, generic)
	add(part, spread(corev1.LabelTopologyZone))
	add(part, spread(corev1.LabelHostname))
	add(part, func() *corev1.Pod {
		labels := d.label("my-affininity")
		pod := d.pod(len(pods), labels)
		pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				term(labels, corev1.LabelTopologyZone),
			},
		}}
		return pod
	})
	add(part, func() *corev1.Pod {
		labels := map[string]string{"app": "nginx"}
		pod := d.pod(len(pods), labels)
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				term(labels, corev1.LabelHostname),
			},
		}}
		return pod
	})
	add(count-len(pods), generic)
	return pods
}

// preferring pods are all alike: one zone preferred, and a host and a zone without another of them,
// of which the last cannot be had.
func (d *draws) preferring(count int) []*corev1.Pod {
	labels := map[string]string{"app": "nginx"}
	first := d.pod(0, labels)
	var pods []*corev1.Pod
	for number := range count {
		pod := d.named(number, labels, nil)
		pod.Spec = *first.Spec.DeepCopy()
		pod.Spec.Affinity = &corev1.Affinity{
			NodeAffinity: &corev1.NodeAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
					Weight: 1,
					Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key:      corev1.LabelTopologyZone,
						Operator: corev1.NodeSelectorOpIn,
						Values:   []string{"test-zone-1"},
					}}},
				}},
			},
			PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
					{Weight: 10, PodAffinityTerm: term(labels, corev1.LabelTopologyZone)},
					{Weight: 1, PodAffinityTerm: term(labels, corev1.LabelHostname)},
				},
			},
		}
		pods = append(pods, pod)
	}
	return pods
}

func term(labels map[string]string, key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{
		LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
		TopologyKey:   key,
	}
}

// benchmarkTypes grow by one CPU, 2 GiB and ten pods; each is sold on demand in three zones and as
// spot in two, at one price that follows from its CPU and memory.
func benchmarkTypes(count int) []Type {
	var all []Type
	for i := 1; i <= count; i++ {
		size := map[string]string{"size": "small", "integer": fmt.Sprint(i)}
		if i > 4 {
			size["size"], size["special"] = "large", "optional"
		}
		gib := float64(2*i) * (1 << 30)
		price := 0.1*float64(i) + 0.1*gib/1e9
		t := Type{
			Name:   fmt.Sprintf("fake-it-%d", i-1),
			Arch:   "amd64",
			OS:     []string{"darwin", "linux", "windows"},
			Labels: size,
			Capacity: quantities(map[corev1.ResourceName]string{
				corev1.ResourceCPU:    fmt.Sprint(i),
				corev1.ResourceMemory: fmt.Sprintf("%dGi", 2*i),
				corev1.ResourcePods:   fmt.Sprint(10 * i),
			}),
			Overhead: quantities(map[corev1.ResourceName]string{
				corev1.ResourceCPU:    "100m",
				corev1.ResourceMemory: "10Mi",
			}),
		}
		for _, sold := range []struct{ zone, capacityType string }{
			{"test-zone-1", "spot"}, {"test-zone-2", "spot"},
			{"test-zone-1", "on-demand"}, {"test-zone-2", "on-demand"}, {"test-zone-3", "on-demand"},
		} {
			t.Offerings = append(t.Offerings, Offering{sold.zone, sold.capacityType, price, true})
		}
		all = append(all, t)
	}
	return all
}
