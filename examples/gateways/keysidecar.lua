local fields = { "x-api-key", "authorization" }
local identity = { "x-keysidecar-key-id", "x-keysidecar-owner-id", "x-keysidecar-scopes" }

core.register_action("keysidecar", { "http-req" }, function(txn)
	local asked, headers = txn.http:req_get_headers(), {}
	for _, name in ipairs(fields) do
		if asked[name] then
			headers[name] = {}
			for i = 0, #asked[name] do table.insert(headers[name], asked[name][i]) end
		end
	end
	local answer = core.httpclient():get{
		url = "http://keysidecar/v1/authz",
		dst = "unix@/run/keysidecar/keysidecar.sock",
		headers = headers,
		timeout = 2000,
	}
	local status = answer and answer.status or 503
	for _, name in ipairs(identity) do
		local value = status == 200 and answer.headers[name]
		if status == 200 and not value then status = 503 end
		txn.http:req_set_header(name, value and value[0] or "")
	end
	txn:set_var("txn.keysidecar", status)
end)
