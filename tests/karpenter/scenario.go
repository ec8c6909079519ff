package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

// Scenario is what both planners read. Pods, nodes and pools are Kubernetes objects as the API writes
// them, so that neither side gets a form made for it.
type Scenario struct {
	// Preferences is "respect" or "ignore".
	Preferences string         `json:"preferences"`
	Types       []Type         `json:"types"`
	NodePools   []*v1.NodePool `json:"nodePools"`
	// Nodes are running and initialised.
	Nodes []*corev1.Node `json:"nodes,omitempty"`
	// Bound pods have spec.nodeName.
	Bound []*corev1.Pod `json:"bound,omitempty"`
	// Daemons are pods as a DaemonSet would make them, without a node.
	Daemons []*corev1.Pod `json:"daemons,omitempty"`
	Pods    []*corev1.Pod `json:"pods"`
}

// Type is an instance type with what is sold of it.
type Type struct {
	Name     string              `json:"name"`
	Arch     string              `json:"arch"`
	OS       []string            `json:"os"`
	Labels   map[string]string   `json:"labels,omitempty"`
	Capacity corev1.ResourceList `json:"capacity"`
	Overhead corev1.ResourceList `json:"overhead"`
	// Offerings in the order in which they are listed to Karpenter.
	Offerings []Offering `json:"offerings"`
}

// Offering is a type in one zone under one capacity type.
type Offering struct {
	Zone         string  `json:"zone"`
	CapacityType string  `json:"capacityType"`
	Price        float64 `json:"price"`
	Available    bool    `json:"available"`
}

func readScenario(path string) (*Scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	scenario := &Scenario{}
	if err := json.Unmarshal(text, scenario); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return scenario, nil
}

// instanceTypes are the types in Karpenter's words. Label keys of types count as well known, as a
// cloud provider would declare them.
func (s *Scenario) instanceTypes() []*cloudprovider.InstanceType {
	var types []*cloudprovider.InstanceType
	for _, t := range s.Types {
		zones, capacityTypes := []string{}, []string{}
		offerings := cloudprovider.Offerings{}
		for _, o := range t.Offerings {
			offerings = append(offerings, &cloudprovider.Offering{
				Requirements: scheduling.NewLabelRequirements(map[string]string{
					v1.CapacityTypeLabelKey:  o.CapacityType,
					corev1.LabelTopologyZone: o.Zone,
				}),
				Price:     o.Price,
				Available: o.Available,
			})
			if o.Available {
				zones = append(zones, o.Zone)
				capacityTypes = append(capacityTypes, o.CapacityType)
			}
		}
		in := func(key string, values ...string) *scheduling.Requirement {
			return scheduling.NewRequirement(key, corev1.NodeSelectorOpIn, values...)
		}
		requirements := scheduling.NewRequirements(
			in(corev1.LabelInstanceTypeStable, t.Name),
			in(corev1.LabelArchStable, t.Arch),
			in(corev1.LabelOSStable, t.OS...),
			in(corev1.LabelTopologyZone, zones...),
			in(v1.CapacityTypeLabelKey, capacityTypes...),
		)
		for key, value := range t.Labels {
			v1.WellKnownLabels.Insert(key)
			requirements.Add(in(key, value))
		}
		types = append(types, &cloudprovider.InstanceType{
			Name:         t.Name,
			Requirements: requirements,
			Offerings:    offerings,
			Capacity:     t.Capacity,
			Overhead:     &cloudprovider.InstanceTypeOverhead{KubeReserved: t.Overhead},
		})
	}
	// A label that only some types have is absent from the others.
	for _, t := range types {
		for _, other := range s.Types {
			for key := range other.Labels {
				if !t.Requirements.Has(key) {
					t.Requirements.Add(scheduling.NewRequirement(key, corev1.NodeSelectorOpDoesNotExist))
				}
			}
		}
	}
	return types
}

// quantities is a resource list from texts.
func quantities(amounts map[corev1.ResourceName]string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, amount := range amounts {
		list[name] = resource.MustParse(amount)
	}
	return list
}
