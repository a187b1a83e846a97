// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package extension

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/resource"
)

// Kubernetes stores both kinds as JSON, and definitions in their first version, which nobody is served any more.

// definitionStorage is how definitions are stored.
func definitionStorage() *resource.Storage[apiextensionsv1.CustomResourceDefinition] {
	return &resource.Storage[apiextensionsv1.CustomResourceDefinition]{
		Encode: func(d *apiextensionsv1.CustomResourceDefinition) ([]byte, error) {
			internal, err := Internal(d)
			if err != nil {
				return nil, err
			}
			out := new(v1beta1.CustomResourceDefinition)
			if err := v1beta1.Convert_apiextensions_CustomResourceDefinition_To_v1beta1_CustomResourceDefinition(internal, out, nil); err != nil {
				return nil, err
			}
			out.TypeMeta = metav1.TypeMeta{Kind: "CustomResourceDefinition", APIVersion: v1beta1.SchemeGroupVersion.String()}
			return line(out)
		},
		Decode: func(value []byte) (*apiextensionsv1.CustomResourceDefinition, error) {
			var stated metav1.TypeMeta
			if err := json.Unmarshal(value, &stated); err != nil {
				return nil, err
			}
			d := new(apiextensionsv1.CustomResourceDefinition)
			if stated.APIVersion == apiextensionsv1.SchemeGroupVersion.String() {
				err := json.Unmarshal(value, d)
				d.TypeMeta = metav1.TypeMeta{}
				return d, err
			}
			old, internal := new(v1beta1.CustomResourceDefinition), new(apiextensions.CustomResourceDefinition)
			if err := json.Unmarshal(value, old); err != nil {
				return nil, err
			}
			if err := v1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(old, internal, nil); err != nil {
				return nil, err
			}
			err := apiextensionsv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(internal, d, nil)
			return d, err
		},
	}
}

// serviceStorage is how APIServices are stored.
func serviceStorage() *resource.Storage[apiregistrationv1.APIService] {
	return &resource.Storage[apiregistrationv1.APIService]{
		Encode: func(a *apiregistrationv1.APIService) ([]byte, error) {
			out := *a
			out.TypeMeta = metav1.TypeMeta{Kind: "APIService", APIVersion: apiregistrationv1.SchemeGroupVersion.String()}
			return line(&out)
		},
		Decode: func(value []byte) (*apiregistrationv1.APIService, error) {
			if !bytes.HasPrefix(value, []byte("{")) {
				return nil, fmt.Errorf("stored API service begins with %q", value[:min(len(value), 4)])
			}
			a := new(apiregistrationv1.APIService)
			err := json.Unmarshal(value, a)
			a.TypeMeta = metav1.TypeMeta{}
			return a, err
		},
	}
}

// line is JSON with a newline at its end, as Kubernetes stores it.
func line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
