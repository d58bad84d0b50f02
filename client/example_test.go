package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/keysidecar/keysidecar/client"
)

// sampleSidecar runs a sidecar with sample keys. In life it runs already, and its
// address is in your configuration: unix:///run/keysidecar/keysidecar.sock.
func sampleSidecar() (address string, stop func()) {
	c, _, stop, err := realSidecar()
	if err != nil {
		panic(err)
	}
	return "unix://" + c.Listen.Socket.Path, stop
}

// Refuse what is refused, and fail what nobody can tell with "try again".
func Example() {
	address, stop := sampleSidecar()
	defer stop()

	sidecar, err := client.New(address, client.Options{Timeout: time.Second})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	for _, id := range []string{"pk_live", "pk_revoked", "pk_nobody", "../status"} {
		key, err := sidecar.Verify(context.Background(), client.Question{KeyID: id, Scopes: []string{"pay"}})
		switch {
		case err == nil:
			fmt.Println("go on for", key.OwnerID)
		case errors.Is(err, client.ErrRefused):
			fmt.Println("401:", err)
		default:
			fmt.Println("503:", err)
		}
	}
	// Output:
	// go on for m_1
	// 401: keysidecar: the key is refused: revoked
	// 401: keysidecar: the key is refused: unknown_key
	// 401: keysidecar: the key is refused: malformed_key: the key_id has a byte that is not one of A-Z a-z 0-9 . _ ~ + = : -
}

func ExampleClient_Verify() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	key, err := sidecar.Verify(context.Background(), client.Question{
		KeyID: "pk_live", OwnerID: "m_1", Scopes: []string{"refund"}, Attributes: map[string]any{"env": "live"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(key.ID, key.Algorithm, key.Scopes)

	// A secret is known to the sidecar by its hash alone.
	_, err = sidecar.Verify(context.Background(), client.Question{Secret: "ks_demo_secret", Scopes: []string{"pay"}})
	var refused *client.RefusedError
	if errors.As(err, &refused) {
		fmt.Println(refused.Code)
	}
	// Output:
	// pk_live ed25519 [pay refund]
	// scope_missing
}

func ExampleClient_Lookup() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	key, err := sidecar.Lookup(context.Background(), "pk_live")
	if err != nil {
		fmt.Println(err)
		return
	}
	public, err := key.Public()
	fmt.Printf("%T %v\n", public, err)
	// Output: ed25519.PublicKey <nil>
}

func ExampleClient_VerifyBatch() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	results, err := sidecar.VerifyBatch(context.Background(), []client.Question{{KeyID: "pk_live"}, {KeyID: "pk_expired"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		if key, err := r.Key(); err == nil {
			fmt.Println(key.ID, "may be used")
		} else {
			fmt.Println(err)
		}
	}
	// Output:
	// pk_live may be used
	// keysidecar: the key is refused: expired
}

// Before something that cannot be undone: only by what the database says from now on.
func ExampleClient_Within() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	now := sidecar.Within(client.Bounds{NoCache: true})
	key, err := now.Lookup(context.Background(), "pk_live")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(key.ID)
	// Output: pk_live
}

// After a revocation: wait until no sidecar of the fleet accepts the key.
func ExampleClient_Wait() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	receipt, err := sidecar.Wait(context.Background(), "pk_revoked", 5*time.Second)
	var pending *client.PendingError
	switch {
	case err == nil && receipt.Kind == "revoked":
		fmt.Println("over; reported by", receipt.Acknowledged.Count, "sidecars")
	case errors.As(err, &pending):
		fmt.Println("not yet, at most", pending.Receipt.Left)
	case errors.Is(err, client.ErrNoRegistry):
		fmt.Println("these keys come from a file, and there is no fleet")
	default:
		fmt.Println(err)
	}
	// Output: these keys come from a file, and there is no fleet
}

func ExampleClient_Middleware() {
	address, stop := sampleSidecar()
	defer stop()
	sidecar, err := client.New(address, client.Options{})
	if err != nil {
		panic(err)
	}
	defer sidecar.Close()

	withKey, err := sidecar.Middleware(client.MiddlewareOptions{Credential: client.CredentialSecret, Scopes: []string{"read"}})
	if err != nil {
		panic(err)
	}
	shop := httptest.NewServer(withKey(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := client.KeyFromContext(r.Context())
		fmt.Fprintln(w, "orders of", key.OwnerID)
	})))
	defer shop.Close()

	for _, apiKey := range []string{"ks_demo_secret", "ks_stolen", ""} {
		req, err := http.NewRequest(http.MethodGet, shop.URL, http.NoBody)
		if err != nil {
			panic(err)
		}
		if apiKey != "" {
			req.Header.Set("X-Api-Key", apiKey)
		}
		answer, err := shop.Client().Do(req)
		if err != nil {
			panic(err)
		}
		_ = answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}
	// Output:
	// 200
	// 403
	// 401
}
