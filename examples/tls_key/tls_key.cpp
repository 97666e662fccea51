// SPDX-License-Identifier: Apache-2.0
// A TLS server's private key (ECDSA, P-256) that has an address only while the server signs.
//
// At rest the key is 32 bytes in `SecretPages`, which nobody can reach: they are not mapped. OpenSSL's server has the
// public key and a method that signs; that opens a window, lets OpenSSL compute, and closes it. OpenSSL copies the key
// into a number of its own for that: it is in OpenSSL's heap, which is secret memory here, and zero before the method
// returns. What is left out of anybody's hands: registers and the stack while it computes.
//
//     tls_key [HANDSHAKES]          a server and a client in one process, over memory
#define OPENSSL_SUPPRESS_DEPRECATED  // methods of EC keys; the new way is a whole provider
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "examples/secret_memory/openssl_memory.hpp"
#include "harena/secret/secret_pages.hpp"

namespace {

using harena::Result;
using harena::SecretPages;
using harena::SecretWindow;

constexpr int k_key_bytes = 32;

template <auto Free>
struct FreeBy {
    template <typename T>
    void operator()(T* object) const {
        Free(object);
    }
};
using Number = std::unique_ptr<BIGNUM, FreeBy<BN_clear_free>>;
using EcKey = std::unique_ptr<EC_KEY, FreeBy<EC_KEY_free>>;
using EcMethod = std::unique_ptr<EC_KEY_METHOD, FreeBy<EC_KEY_METHOD_free>>;
using PublicKey = std::unique_ptr<EVP_PKEY, FreeBy<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, FreeBy<X509_free>>;
using Context = std::unique_ptr<SSL_CTX, FreeBy<SSL_CTX_free>>;
using Connection = std::unique_ptr<SSL, FreeBy<SSL_free>>;

/// The pages with the key of this process's server, and how often it signed.
SecretPages* key_pages = nullptr;
int signatures = 0;

/// In place of OpenSSL's own: the key object that it is called with has no private key.
ECDSA_SIG* sign_with_window(const unsigned char* digest, int length, const BIGNUM* /*inverse*/, const BIGNUM* /*r*/,
                            EC_KEY* public_half) {
    const auto window = key_pages->open();
    if (!window) {
        fmt::print(stderr, "tls_key: {}\n", window.error().message());
        return nullptr;
    }
    const EcKey whole{EC_KEY_new_by_curve_name(NID_X9_62_prime256v1)};
    const Number number{BN_secure_new()};
    const bool ready =
        BN_bin2bn(reinterpret_cast<const unsigned char*>(window->data()), k_key_bytes, number.get()) != nullptr &&
        EC_KEY_set_private_key(whole.get(), number.get()) == 1 &&
        EC_KEY_set_public_key(whole.get(), EC_KEY_get0_public_key(public_half)) == 1;
    ++signatures;
    return ready ? ECDSA_do_sign(digest, length, whole.get()) : nullptr;
}

std::unexpected<harena::Error> openssl_error(std::string_view what) {
    return harena::fail(EIO, "{}: {}", what, ERR_error_string(ERR_get_error(), nullptr));
}

/// A new key: its private half in `pages`, and nowhere else; its public half, which signs with that, is returned.
Result<PublicKey> make_key(SecretPages& pages, const EC_KEY_METHOD* method) {
    EcKey signer{EC_KEY_new_by_curve_name(NID_X9_62_prime256v1)};
    {
        const EcKey made{EC_KEY_new_by_curve_name(NID_X9_62_prime256v1)};
        HARENA_TRY(const SecretWindow window, pages.open());
        if (EC_KEY_generate_key(made.get()) != 1 ||
            BN_bn2binpad(EC_KEY_get0_private_key(made.get()), reinterpret_cast<unsigned char*>(window.data()),
                         k_key_bytes) != k_key_bytes ||
            EC_KEY_set_public_key(signer.get(), EC_KEY_get0_public_key(made.get())) != 1)
            return openssl_error("no key could be made");
    }
    harena::example::wipe_stack();  // where the generator multiplied
    PublicKey key{EVP_PKEY_new()};
    if (EC_KEY_set_method(signer.get(), method) != 1 || EVP_PKEY_set1_EC_KEY(key.get(), signer.get()) != 1)
        return openssl_error("the key's method could not be set");
    return key;
}

Result<Certificate> self_signed(EVP_PKEY* key) {
    Certificate certificate{X509_new()};
    X509_set_version(certificate.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
    X509_set_pubkey(certificate.get(), key);
    X509_NAME* const name = X509_get_subject_name(certificate.get());
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1,
                               0);
    X509_set_issuer_name(certificate.get(), name);
    if (X509_sign(certificate.get(), key, EVP_sha256()) == 0)
        return openssl_error("the certificate could not be signed");
    return certificate;
}

/// A handshake of a server and a client who trusts its certificate.
Result<std::string> shake_hands(SSL_CTX* server_context, SSL_CTX* client_context) {
    const Connection server{SSL_new(server_context)};
    const Connection client{SSL_new(client_context)};
    BIO* server_end = nullptr;
    BIO* client_end = nullptr;
    BIO_new_bio_pair(&server_end, 0, &client_end, 0);
    SSL_set_bio(server.get(), server_end, server_end);
    SSL_set_bio(client.get(), client_end, client_end);
    SSL_set_accept_state(server.get());
    SSL_set_connect_state(client.get());
    constexpr int k_most_steps = 20;
    for (int step = 0; step < k_most_steps; ++step) {
        const int by_client = SSL_do_handshake(client.get());
        const int by_server = SSL_do_handshake(server.get());
        if (by_client == 1 && by_server == 1) return std::string{SSL_get_version(client.get())};
        if (SSL_get_error(client.get(), by_client) == SSL_ERROR_SSL ||
            SSL_get_error(server.get(), by_server) == SSL_ERROR_SSL)
            break;
    }
    return openssl_error("the handshake failed");
}

Result<void> run(int handshakes) {
    // Lives as long as the process: OpenSSL frees some of its memory at the very end.
    HARENA_TRY(auto made, harena::SecretHeap::create());
    if (!harena::example::give_openssl_secret_memory(*made.release()))
        return harena::fail(EBUSY, "OpenSSL was used before it got its memory");
    HARENA_TRY(const auto pages, SecretPages::create(harena::PageCount{1}));
    key_pages = pages.get();

    const EcMethod method{EC_KEY_METHOD_new(EC_KEY_OpenSSL())};
    decltype(&sign_with_window) unused = nullptr;
    int (*sign)(int, const unsigned char*, int, unsigned char*, unsigned int*, const BIGNUM*, const BIGNUM*, EC_KEY*) =
        nullptr;
    int (*setup)(EC_KEY*, BN_CTX*, BIGNUM**, BIGNUM**) = nullptr;
    EC_KEY_METHOD_get_sign(EC_KEY_OpenSSL(), &sign, &setup, &unused);
    EC_KEY_METHOD_set_sign(method.get(), sign, setup, &sign_with_window);
    HARENA_TRY(const PublicKey key, make_key(*pages, method.get()));
    HARENA_TRY(const Certificate certificate, self_signed(key.get()));

    const Context server{SSL_CTX_new(TLS_server_method())};
    const Context client{SSL_CTX_new(TLS_client_method())};
    if (SSL_CTX_use_certificate(server.get(), certificate.get()) != 1 ||
        SSL_CTX_use_PrivateKey(server.get(), key.get()) != 1)
        return openssl_error("the server cannot use the key");
    X509_STORE_add_cert(SSL_CTX_get_cert_store(client.get()), certificate.get());
    SSL_CTX_set_verify(client.get(), SSL_VERIFY_PEER, nullptr);
    for (int i = 0; i < handshakes; ++i) {
        HARENA_TRY(const std::string version, shake_hands(server.get(), client.get()));
        if (i == 0) fmt::print("{}, certificate verified\n", version);
    }
    fmt::print("{} handshakes, {} signatures, {} windows open now\n", handshakes, signatures, pages->windows());
    HARENA_TRY(const SecretWindow window, pages->open());
    fmt::print("copies outside of secret memory: {}\n",
               harena::example::copies_outside(window.bytes().first(k_key_bytes)));
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    const int handshakes = argc > 1 ? std::atoi(argv[1]) : 3;
    if (argc > 2 || handshakes < 1) {
        fmt::print(stderr, "usage: tls_key [HANDSHAKES]\n");
        return 2;
    }
    const auto done = run(handshakes);
    if (done) return 0;
    fmt::print(stderr, "tls_key: {}\n", done.error().message());
    return 1;
}
