package federation_test

import (
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// TestCaller: a server names at most one user, of its own, whose id is good for a name in a signature.
func TestCaller(t *testing.T) {
	for _, test := range []struct {
		users []string
		want  mimiport.Kind // 0 for none
	}{
		{nil, 0},
		{[]string{"@u:" + source}, 0},
		{[]string{"@u:" + source, "@v:" + source}, mimiport.KindBadMessage},
		{[]string{""}, mimiport.KindBadMessage},
		{[]string{"u"}, mimiport.KindBadMessage},
		{[]string{`@u":{},"@v:` + source}, mimiport.KindBadMessage},
		{[]string{`@u\:` + source}, mimiport.KindBadMessage},
		{[]string{"@u:" + target}, mimiport.KindForbidden},
	} {
		query := url.Values{"user_id": test.users}
		_, err := federation.Caller(source, target, httptest.NewRequest("GET", "/?"+query.Encode(), nil))
		if mimiport.KindOf(err) != test.want || (err == nil) != (test.want == 0) {
			t.Errorf("%q: %v", test.users, err)
		}
	}
}
