package api_test

import (
	"fmt"
	"testing"

	"roombell/internal/api"
)

func TestChannels(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	admin := h.ours.admin
	made := decode[api.Channel](t, h.request(admin, "POST", "/channels", `{"provider":"telegram","name":"Bot","externalId":"4711"}`).want(t, 201, ""))
	if made.Provider != "telegram" || made.Name != "Bot" || made.ExternalID == nil || *made.ExternalID != "4711" || made.Status != "disconnected" ||
		made.OrganizationID != h.ours.id || made.CreatedAt == nil || made.UpdatedAt == nil {
		t.Errorf("%+v", made)
	}
	path := fmt.Sprintf("/channels/%d", made.ID)
	second := decode[api.Channel](t, h.request(admin, "POST", "/channels", `{"provider":"none"}`).want(t, 201, ""))
	list := decode[api.List[api.Channel]](t, h.request(h.ours.employee, "GET", "/channels", nil).want(t, 200, ""))
	if len(list.Items) != 2 || list.Items[0].ID != second.ID || list.Items[1].ID != made.ID || list.NextCursor != nil || second.ExternalID != nil {
		t.Errorf("%+v", list)
	}

	got := decode[api.Channel](t, h.request(admin, "PATCH", path, `{"name":"Robot"}`).want(t, 200, ""))
	if got.Name != "Robot" || got.ExternalID == nil || *got.UpdatedAt <= *made.UpdatedAt {
		t.Errorf("%+v", got)
	}
	got = decode[api.Channel](t, h.request(admin, "PATCH", path, `{"externalId":null}`).want(t, 200, ""))
	if got.Name != "Robot" || got.ExternalID != nil {
		t.Errorf("%+v", got)
	}

	chat := one[int64](h, "INSERT INTO chats (organization_id, channel_id) VALUES ($1, $2) RETURNING id", h.ours.id, made.ID)
	for _, who := range []someone{h.ours.manager, h.ours.employee} {
		h.request(who, "GET", path, nil).want(t, 200, "")
		h.request(who, "POST", "/channels", `{"provider":"none"}`).want(t, 403, "forbidden")
		h.request(who, "PATCH", path, `{"name":"mine"}`).want(t, 403, "forbidden")
		h.request(who, "DELETE", path, nil).want(t, 403, "forbidden")
	}
	stranger := h.theirs.admin
	h.request(stranger, "GET", path, nil).want(t, 404, "not_found")
	h.request(stranger, "PATCH", path, `{"name":"mine"}`).want(t, 404, "not_found")
	h.request(stranger, "DELETE", path, nil).want(t, 404, "not_found")
	if list := decode[api.List[api.Channel]](t, h.request(stranger, "GET", "/channels", nil).want(t, 200, "")); len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}

	h.request(admin, "DELETE", path, nil).want(t, 204, "")
	h.request(admin, "GET", path, nil).want(t, 404, "not_found")
	if left := one[bool](h, "SELECT channel_id IS NULL FROM chats WHERE id = $1", chat); !left {
		t.Error("the chat is still the deleted channel's")
	}
	for _, body := range []string{`{}`, `{"provider":"pigeon"}`, `{"provider":"none","token":"secret"}`, `{"provider":"none","name":"\u0000"}`} {
		h.request(admin, "POST", "/channels", body).want(t, 422, "validation_failed")
	}
	h.request(admin, "PATCH", fmt.Sprintf("/channels/%d", second.ID), `{"provider":"waba"}`).want(t, 422, "validation_failed")
}
